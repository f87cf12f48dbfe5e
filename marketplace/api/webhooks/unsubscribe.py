"""Where the link under an e-mail leads: a page that asks, since mail programs look at links before people do."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from marketplace import content_policy
from marketplace.api.browsing import page
from marketplace.api.problems import not_found, respond
from marketplace.webhooks import endpoints, mails

# The title, the question with its button, and what is said once it is done.
TEXTS = {
    "en": ("E-mails from Kiln", "End e-mails of the kind {}?", "End them", "E-mails of the kind {} have ended."),
    "de": ("E-Mails von Kiln", "E-Mails der Art {} beenden?", "Beenden", "E-Mails der Art {} sind beendet."),
}
POLICY = content_policy.PAGE.replace("form-action 'none'", "form-action 'self'")


@csrf_exempt  # whoever has the link may; mail programs post it without a form (RFC 8058)
@require_http_methods(["GET", "HEAD", "POST"])
def unsubscribe(request: HttpRequest, token: str) -> HttpResponse:
    found = mails.read(token)
    if found is None:
        return respond(not_found("page"), request)
    account_id, kind = found
    title, question, button, done = TEXTS[endpoints.preferences(account_id).language]
    shown = {"title": title, "sentence": question.format(kind.value), "button": button}
    if request.method == "POST":
        mails.mute(account_id, kind)
        shown = {"title": title, "sentence": done.format(kind.value)}
    answer = page("unsubscribe.html", shown, 200)
    answer["Content-Security-Policy"] = POLICY
    return answer
