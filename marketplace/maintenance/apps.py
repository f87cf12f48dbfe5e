from django.apps import AppConfig


class MaintenanceConfig(AppConfig):
    name = "marketplace.maintenance"
    label = "maintenance"
    verbose_name = "Maintenance"
