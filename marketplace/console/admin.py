"""The module that registers every page; Django imports `admin` from each of its apps."""

from marketplace.console import approvals as approvals
from marketplace.console import audit as audit
from marketplace.console import customers as customers
from marketplace.console import earnings as earnings
from marketplace.console import jobs as jobs
from marketplace.console import market as market
from marketplace.console import money as money
from marketplace.console import payments as payments
from marketplace.console import payouts as payouts
from marketplace.console import trainings as trainings
from marketplace.console import webhooks as webhooks
