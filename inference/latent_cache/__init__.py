"""The latent cache: a picture whose prompt resembles an earlier one begins from that one's latents. No Django."""
