"""The log-in page's form, which tells people who are switched off that they are, once their password was right."""

from __future__ import annotations

from django.contrib.auth.signals import user_login_failed
from django.core.exceptions import ValidationError
from unfold.forms import AuthenticationForm

from marketplace.accounts.models import Person


class LogInForm(AuthenticationForm):  # type: ignore[misc]
    error_messages = AuthenticationForm.error_messages | {
        "inactive": "This person is switched off: ask another operator.",
    }

    def confirm_login_allowed(self, user: Person) -> None:
        try:
            super().confirm_login_allowed(user)
        except ValidationError:
            user_login_failed.send(__name__, credentials={"username": user.email}, request=self.request)
            raise
