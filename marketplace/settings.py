"""Django's settings. Every value that an operator may change comes from `environment`."""

from __future__ import annotations

from django.templatetags.static import static

from marketplace import addresses
from marketplace import environment as env

KILN_HOME = addresses.home()
SECRET_KEY = env.secret_key()
DEBUG = env.flag("KILN_DEBUG")
ALLOWED_HOSTS = env.words("KILN_ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]")
CSRF_TRUSTED_ORIGINS = env.words("KILN_TRUSTED_ORIGINS", "")

INSTALLED_APPS = [
    "marketplace",
    "marketplace.console",
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "billing",
    "lora",
    "marketplace.trainings",
    "marketplace.accounts",
    "marketplace.jobs",
    "marketplace.webhooks",
    "marketplace.files",
    "marketplace.audit",
    "marketplace.approvals",
    "marketplace.maintenance",
]
MIDDLEWARE = [
    "marketplace.api.middleware.RequestId",
    "marketplace.api.cross_origin.CrossOrigin",
    "marketplace.api.limits.Headers",
    "marketplace.api.middleware.Unavailability",
    "marketplace.content_policy.ContentPolicy",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "marketplace.api.middleware.Bodies",
    "marketplace.api.middleware.Conditions",
    "marketplace.api.middleware.Methods",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "marketplace.console.messages.Messages",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "marketplace.urls"
CSRF_FAILURE_VIEW = "marketplace.api.problems.csrf_failed"
WSGI_APPLICATION = "marketplace.wsgi.application"
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASE_URL = env.database_url()
DATABASES = {"default": env.database(DATABASE_URL)}
REDIS_URL = env.redis_url()
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "accounts.Person"
AUTHENTICATION_BACKENDS = ["marketplace.accounts.authentication.Passwords"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
FORMAT_MODULE_PATH = "marketplace.formats"
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "images": env.storage("KILN_IMAGES", KILN_HOME / "images"),
    "files": env.storage("KILN_FILES", KILN_HOME / "files"),
    "adapters": env.storage("KILN_ADAPTERS", KILN_HOME / "adapters"),
}

BEHIND_HTTPS = env.flag("KILN_BEHIND_HTTPS")
if BEHIND_HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = 31_536_000
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = BEHIND_HTTPS
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["marketplace.accounts.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["marketplace.accounts.authentication.HasKey"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer", "marketplace.api.browsing.Page"],
    "DEFAULT_PARSER_CLASSES": ["marketplace.api.bodies.ObjectParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "marketplace.api.browsing.Negotiation",
    "DEFAULT_METADATA_CLASS": "marketplace.api.browsing.NoMetadata",
    "URL_FORMAT_OVERRIDE": None,
    "DEFAULT_SCHEMA_CLASS": "marketplace.api.schema.Schema",
    "DEFAULT_THROTTLE_CLASSES": ["marketplace.api.limits.Throttle"],
    "EXCEPTION_HANDLER": "marketplace.api.errors.handle",
    "UNAUTHENTICATED_USER": None,
    "COERCE_DECIMAL_TO_STRING": True,
}
CORS_ALLOW_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
# those of OpenAI's client, too
CORS_ALLOW_HEADERS = (
    "accept", "authorization", "content-type", "idempotency-key", "if-match", "if-none-match", "last-event-id",
    "prefer", "x-request-id", "x-stainless-arch", "x-stainless-async", "x-stainless-helper-method", "x-stainless-lang",
    "x-stainless-os", "x-stainless-package-version", "x-stainless-read-timeout", "x-stainless-retry-count",
    "x-stainless-runtime", "x-stainless-runtime-version", "x-stainless-timeout",
)  # fmt: skip
CORS_EXPOSE_HEADERS = (
    "ETag", "Idempotent-Replayed", "Location", "Preference-Applied", "RateLimit", "RateLimit-Policy", "Retry-After",
    "X-Request-Id",
)  # fmt: skip
CORS_PREFLIGHT_MAX_AGE = 600
SPECTACULAR_SETTINGS = {
    "TITLE": "Kiln",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "marketplace.api.description.complete",
    ],
    "GET_LIB_DOC_EXCLUDES": "marketplace.api.schema.bases",
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "RENDERER_WHITELIST": ["rest_framework.renderers.JSONRenderer"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "persistAuthorization": True, "tryItOutEnabled": True},
    "ENUM_NAME_OVERRIDES": {
        "ReportReasonEnum": "lora.models.Report.Reason",
        "JobStatus": "marketplace.jobs.models.Status",
        "ServiceClass": "marketplace.jobs.models.ServiceClass",
        "HoldStatus": "billing.models.Hold.Status",
        "VersionStatus": "lora.models.Version.Status",
        "LotKind": "billing.models.Lot.Kind",
        "TransferKind": "billing.models.Transfer.CUSTOMER_KINDS",
        "TopUpStatus": "billing.models.TopUp.Status",
        "PayeeStatus": "billing.models.Payee.Status",
        "PayoutStatus": "billing.models.Payout.Status",
    },
}
UNFOLD = {
    "SITE_TITLE": "Kiln",
    "SITE_HEADER": "Kiln",
    "SITE_SUBHEADER": "Operator",
    "SITE_ICON": lambda request: static("kiln/kiln.svg"),
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("kiln/kiln.svg")},
    ],
    "SHOW_VIEW_ON_SITE": False,
    "STYLES": [lambda request: static("console/console.css")],
    "DASHBOARD_CALLBACK": "marketplace.console.dashboard.context",
    "LOGIN": {"form": "marketplace.console.login.LogInForm"},
    "COLORS": {
        "primary": {
            "50": "oklch(98% .016 73.684)",
            "100": "oklch(95.4% .038 75.164)",
            "200": "oklch(90.1% .076 70.697)",
            "300": "oklch(83.7% .128 66.29)",
            "400": "oklch(75% .183 55.934)",
            "500": "oklch(70.5% .213 47.604)",
            "600": "oklch(55.3% .195 38.402)",
            "700": "oklch(47% .157 37.304)",
            "800": "oklch(40.8% .123 38.172)",
            "900": "oklch(33% .09 37)",
            "950": "oklch(26.6% .079 36.259)",
        },
    },
    "SIDEBAR": {"navigation": "marketplace.console.navigation.navigation"},
}

MAX_BODY_BYTES = 64 * 1024
MAX_TRAINING_BYTES = 1024 * 1024  # of an order of a training: captions of 200 pictures
TRUSTED_PROXIES = env.networks("KILN_TRUSTED_PROXIES")
ADDRESS_REQUESTS_MINUTE = env.whole("KILN_ADDRESS_REQUESTS_MINUTE", 3000)
FAILURES_MINUTE = env.whole("KILN_FAILURES_MINUTE", 300)
JWT_ISSUER = env.text("KILN_JWT_ISSUER")
JWT_AUDIENCE = env.text("KILN_JWT_AUDIENCE")
JWT_KEYS_URL = env.text("KILN_JWT_KEYS_URL")
JWT_ALGORITHMS = env.signatures("KILN_JWT_ALGORITHMS", "RS256,PS256,ES256,EdDSA")
JWT_CLAIM = env.text("KILN_JWT_CLAIM", "sub")
JWT_LEEWAY = env.whole("KILN_JWT_LEEWAY", 30)
JWT_CREATE = env.flag("KILN_JWT_CREATE")
env.all_or_none("KILN_JWT_ISSUER", "KILN_JWT_AUDIENCE", "KILN_JWT_KEYS_URL")
FILE_MB = env.whole("KILN_FILE_MB", 10)
# In thousandths of the price of a picture, and of the fee.
MARKET_FEE_MOST = env.whole("KILN_MARKET_FEE_MOST", 1000)
MARKET_SHARE = env.whole("KILN_MARKET_SHARE", 700)
ADAPTER_MB = env.whole("KILN_ADAPTER_MB", 1024)
ADAPTERS_KEPT = env.whole("KILN_ADAPTERS_KEPT", 100)
ADAPTERS_KEPT_UNFUNDED = env.whole("KILN_ADAPTERS_KEPT_UNFUNDED", 3)
ADAPTERS_KEPT_MB = env.whole("KILN_ADAPTERS_KEPT_MB", 20_480)
ADAPTERS_CACHE = env.text("KILN_ADAPTERS_CACHE", str(KILN_HOME / "adapters-cache"))
ADAPTERS_CACHE_MB = env.whole("KILN_ADAPTERS_CACHE_MB", 20_480)
FILE_DAYS = env.whole("KILN_FILE_DAYS", 30)
DATA_UPLOAD_MAX_MEMORY_SIZE = None  # `marketplace.api` bounds bodies, by address
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]
PUBLIC_URL = env.text("KILN_PUBLIC_URL")
globals().update(env.mail_server("KILN_SMTP_URL"))
DEFAULT_FROM_EMAIL = env.text("KILN_MAIL_FROM", "Kiln <kiln@localhost>")
WEBHOOKS_PRIVATE = env.flag("KILN_WEBHOOKS_PRIVATE")
IMAGE_URL_SECONDS = env.whole("KILN_IMAGE_URL_SECONDS", 3600)
MODEL = env.text("KILN_MODEL")
BACKEND = env.text("KILN_BACKEND", "torch")
PLANS = env.text("KILN_PLANS", "~/.cache/kiln/plans")
PRECISION = env.text("KILN_PRECISION")
MEMORY_PROFILE = env.text("KILN_PROFILE", "auto")
CARDS = env.whole("KILN_CARDS", 1)
LATENT_CACHE = env.text("KILN_LATENT_CACHE", str(KILN_HOME / "latents.sqlite3"))
LATENT_CACHE_MB = env.whole("KILN_LATENT_CACHE_MB", 2048)
LATENT_CACHE_ACCOUNT_MB = env.whole("KILN_LATENT_CACHE_ACCOUNT_MB", 64)
SHADOW_PERCENT = env.whole("KILN_SHADOW_PERCENT", 2)
TEMPLATES_ACCOUNT = env.text("KILN_TEMPLATES_ACCOUNT")
METRICS_PORT = env.whole("KILN_METRICS_PORT", 0)
LEASE_SECONDS = env.whole("KILN_LEASE_SECONDS", 30)
DRAIN_SECONDS = env.whole("KILN_DRAIN_SECONDS", 10)
RETRY_SECONDS = env.whole("KILN_RETRY_SECONDS", 5)
STREAMS = env.whole("KILN_STREAMS", 2000)
SWEEP_SECONDS = env.whole("KILN_SWEEP_SECONDS", 5)
JOB_SECONDS = env.whole("KILN_JOB_SECONDS", 3600)
HOLD_SECONDS = env.whole("KILN_HOLD_SECONDS", 24 * 3600)
TRAIN_BESIDE_SERVING = env.flag("KILN_TRAIN_BESIDE_SERVING")
TRAINING_SAVE_SECONDS = env.whole("KILN_TRAINING_SAVE_SECONDS", 60)
TRAINING_HOLD_SECONDS = env.whole("KILN_TRAINING_HOLD_SECONDS", 7 * 24 * 3600)

PAYOUT_MINIMUMS = env.money("KILN_PAYOUT_MINIMUMS", "eur:20.00,usd:20.00")
EARNINGS_DAYS = env.whole("KILN_EARNINGS_DAYS", 30)
GRANT_LIMIT = env.whole("KILN_GRANT_LIMIT", 100_000)
REFUND_LIMIT = env.whole("KILN_REFUND_LIMIT", 100_000)
REFUND_LIMITS = env.money("KILN_REFUND_LIMITS", "eur:50.00,usd:50.00")
APPROVAL_HOURS = env.whole("KILN_APPROVAL_HOURS", 72)

STRIPE_SECRET_KEY = env.stripe("STRIPE_SECRET_KEY")
STRIPE_WEBHOOK_SECRETS = [word.strip() for word in env.stripe("STRIPE_WEBHOOK_SECRET").split(",") if word.strip()]
STRIPE_API_BASE = env.stripe("STRIPE_API_BASE")
STRIPE_TAX = env.flag("KILN_STRIPE_TAX")
STRIPE_TAX_IDS = env.flag("KILN_STRIPE_TAX_IDS")
SELLER_NAME = env.text("KILN_SELLER_NAME", "Kiln")
SELLER_ADDRESS = env.text("KILN_SELLER_ADDRESS")
SELLER_TAX_ID = env.text("KILN_SELLER_TAX_ID")
INVOICE_FONT = env.text("KILN_INVOICE_FONT")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "marketplace.masking.Formatter",
            "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
        },
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"django.security.DisallowedHost": {"handlers": [], "propagate": False}},  # strangers, not errors
    "root": {"handlers": ["stderr"], "level": env.text("KILN_LOG_LEVEL", "INFO").upper()},
}
