"""The address of every page and API call."""

from __future__ import annotations

from django.contrib import admin
from django.templatetags.static import static
from django.urls import path, register_converter
from django.urls.converters import StringConverter
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from marketplace import home
from marketplace.api import health, stripe_webhook
from marketplace.api.account import views as account
from marketplace.api.adapters import views as adapters
from marketplace.api.catalogue import views as catalogue
from marketplace.api.earnings import statements
from marketplace.api.earnings import views as earnings
from marketplace.api.files import views as files
from marketplace.api.images import views as images_api
from marketplace.api.jobs import events, images, receipts
from marketplace.api.jobs import views as jobs
from marketplace.api.keys import views as keys
from marketplace.api.market import views as market
from marketplace.api.money import invoices
from marketplace.api.money import views as money
from marketplace.api.payouts import views as payouts
from marketplace.api.topups import automatic
from marketplace.api.topups import views as topups
from marketplace.api.trainings import events as training_events
from marketplace.api.trainings import views as trainings
from marketplace.api.webhooks import unsubscribe
from marketplace.api.webhooks import views as webhooks


class Month(StringConverter):
    """A month in an address, such as 2026-11."""

    regex = "[0-9]{4}-(?:0[1-9]|1[0-2])"


class Year(StringConverter):
    """A year in an address."""

    regex = "[0-9]{4}"


register_converter(Month, "month")
register_converter(Year, "year")
urlpatterns = [
    path("", home.home),
    path("favicon.ico", RedirectView.as_view(url=static("kiln/kiln.svg"))),
    path("admin", RedirectView.as_view(url="/admin/")),
    path("topups/<uuid:topup_id>", home.top_up),
    path("v1/quotes", jobs.Quotes.as_view()),
    path("v1/jobs", jobs.Jobs.as_view()),
    path("v1/jobs/<uuid:job_id>", jobs.OneJob.as_view()),
    path("v1/jobs/<uuid:job_id>/cancel", jobs.CancelJob.as_view()),
    path("v1/jobs/<uuid:job_id>/events", events.JobEvents.as_view()),
    path("v1/jobs/<uuid:job_id>/receipt", receipts.Receipt.as_view()),
    path("v1/account", account.OneAccount.as_view()),
    path("v1/balance", money.Balance.as_view()),
    path("v1/transfers", money.Transfers.as_view()),
    path("v1/transfers.csv", money.TransfersCsv.as_view()),
    path("v1/invoices", invoices.Invoices.as_view()),
    path("v1/invoices/<month:month>.pdf", invoices.InvoicePdf.as_view()),
    path("v1/earnings", earnings.Earnings.as_view()),
    path("v1/earnings.csv", statements.EarningsCsv.as_view()),
    path("v1/earnings/years/<year:year>.csv", statements.YearCsv.as_view()),
    path("v1/earnings/years/<year:year>.pdf", statements.YearPdf.as_view()),
    path("v1/earnings/spend", earnings.Spend.as_view()),
    path("v1/earnings/summary", earnings.Summary.as_view()),
    path("v1/payouts", payouts.Payouts.as_view()),
    path("v1/payouts/account", payouts.PayoutAccount.as_view()),
    path("v1/payouts/<uuid:payout_id>", payouts.OnePayout.as_view()),
    path("v1/topups", topups.TopUps.as_view()),
    path("v1/topups/automatic", automatic.Automatic.as_view()),
    path("v1/topups/<uuid:topup_id>", topups.OneTopUp.as_view()),
    path("v1/keys", keys.Keys.as_view()),
    path("v1/keys/<uuid:key_id>", keys.OneKey.as_view()),
    path("v1/files", files.Files.as_view()),
    path("v1/files/<uuid:file_id>", files.OneFile.as_view()),
    path("v1/files/<uuid:file_id>/content", files.FileContent.as_view()),
    path("v1/adapters/<uuid:adapter_id>/publication", market.OnePublication.as_view()),
    path("v1/market", market.Catalogue.as_view()),
    path("v1/market/<slug:handle>/<slug:slug>", market.OneOffer.as_view()),
    path("v1/market/<slug:handle>/<slug:slug>/samples", market.OfferSamples.as_view()),
    path("v1/market/<slug:handle>/<slug:slug>/rating", market.OfferRating.as_view()),
    path("v1/market/<slug:handle>/<slug:slug>/reports", market.OfferReports.as_view()),
    path("v1/tiers", trainings.Tiers.as_view()),
    path("v1/adapters/<uuid:adapter_id>/trainings", trainings.AdapterTrainings.as_view()),
    path("v1/trainings", trainings.Trainings.as_view()),
    path("v1/trainings/quotes", trainings.TrainingQuotes.as_view()),
    path("v1/trainings/<uuid:training_id>", trainings.OneTraining.as_view()),
    path("v1/trainings/<uuid:training_id>/cancel", trainings.CancelTraining.as_view()),
    path("v1/trainings/<uuid:training_id>/events", training_events.TrainingEvents.as_view()),
    path("v1/trainings/<uuid:training_id>/samples/<int:step>", trainings.TrainingSamples.as_view()),
    path("v1/trainings/<uuid:training_id>/steps/<int:step>/version", trainings.KeepStep.as_view()),
    path("v1/adapters", adapters.Adapters.as_view()),
    path("v1/adapters/<uuid:adapter_id>", adapters.OneAdapter.as_view()),
    path("v1/adapters/<uuid:adapter_id>/versions", adapters.Versions.as_view()),
    path("v1/adapters/<uuid:adapter_id>/versions/<int:number>", adapters.OneVersion.as_view()),
    path("v1/adapters/<uuid:adapter_id>/versions/<int:number>/file", adapters.VersionFile.as_view()),
    path("v1/adapters/<uuid:adapter_id>/shared/<uuid:account_id>", adapters.Sharing.as_view()),
    path("v1/maker", adapters.OneMaker.as_view()),
    path("v1/images/generations", images_api.Generations.as_view()),
    path("v1/images/edits", images_api.Edits.as_view()),
    path("v1/images/variations", images_api.Variations.as_view()),
    path("v1/webhooks", webhooks.Webhooks.as_view()),
    path("v1/webhooks/<uuid:webhook_id>", webhooks.OneWebhook.as_view()),
    path("v1/webhooks/<uuid:webhook_id>/secret", webhooks.WebhookSecret.as_view()),
    path("v1/webhooks/<uuid:webhook_id>/test", webhooks.TestWebhook.as_view()),
    path("v1/webhooks/<uuid:webhook_id>/deliveries", webhooks.Deliveries.as_view()),
    path("v1/webhooks/<uuid:webhook_id>/deliveries/<uuid:delivery_id>/replay", webhooks.ReplayDelivery.as_view()),
    path("v1/account/webhook-secret", webhooks.AccountSecret.as_view()),
    path("v1/account/webhook-deliveries", webhooks.OrderDeliveries.as_view()),
    path("v1/account/notifications", webhooks.Notifications.as_view()),
    path("v1/models", catalogue.Models.as_view()),
    path("v1/models/<str:name>", catalogue.OneModel.as_view()),
    path("v1/packs", catalogue.Packs.as_view()),
    path("v1/prices", catalogue.Prices.as_view()),
    path("unsubscribe/<str:token>", unsubscribe.unsubscribe),
    path("webhooks/stripe", stripe_webhook.receive),
    path("images/<uuid:image_id>.<slug:kind>", images.image),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", health.prometheus),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("docs", SpectacularSwaggerSplitView.as_view(url_name="schema", template_name="docs.html")),
    path("admin/", admin.site.urls),
]
handler400 = "marketplace.api.problems.bad_request"
handler403 = "marketplace.api.problems.forbidden"
handler404 = "marketplace.api.problems.page_not_found"
handler500 = "marketplace.api.problems.server_error"
