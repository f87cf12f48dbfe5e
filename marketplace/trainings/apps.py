from django.apps import AppConfig


class TrainingsConfig(AppConfig):
    name = "marketplace.trainings"
    label = "trainings"
    verbose_name = "Trainings"
