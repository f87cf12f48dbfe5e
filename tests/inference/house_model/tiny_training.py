"""The training's command line with tiny batches, for tests: each step writes a checkpoint and tells its progress."""

from inference.house_model import pace, progress, stage, text, train, transformer, vae

SMALL = (64, 64)

if __name__ == "__main__":
    stage.CHECKPOINT_SECONDS = -1
    pace.LOSSES = 1
    vae.CROPS, vae.BATCH_PIXELS, vae.KEPT_PIXELS, vae.MEASURED = 2, 64 * 64, 8 * 64 * 64, 4
    vae.CROPPED = vae.WHOLES = vae.DECODED = {SMALL: 1.0}
    text.BATCH, text.OPEN, text.INSTRUCTIONS = 6, 2, 2
    transformer.SIZES = {SMALL: transformer.Share(48, 4, 2, 1.0, 1.0)}
    progress.CAPTIONS, progress.OPEN, progress.EDITED, progress.STEPS = {SMALL: 2}, 2, {SMALL: 2}, 2
    train.JUDGED = 2
    train.main()
