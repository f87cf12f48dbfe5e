from django.apps import AppConfig


class LoraConfig(AppConfig):
    name = "lora"
    default_auto_field = "django.db.models.BigAutoField"
    verbose_name = "Adapters"
