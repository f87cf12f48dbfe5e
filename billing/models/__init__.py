"""The tables of billing: Tokens, and the payments for them. They contain no behaviour."""

from billing.models.invoices import Invoice as Invoice
from billing.models.invoices import Month as Month
from billing.models.payments import AutomaticTopUp as AutomaticTopUp
from billing.models.payments import Notice as Notice
from billing.models.payments import Pack as Pack
from billing.models.payments import Payer as Payer
from billing.models.payments import Reconciliation as Reconciliation
from billing.models.payments import RefundOrder as RefundOrder
from billing.models.payments import Reversal as Reversal
from billing.models.payments import StripeEvent as StripeEvent
from billing.models.payments import TopUp as TopUp
from billing.models.tokens import MINT_ID as MINT_ID
from billing.models.tokens import PLATFORM_ID as PLATFORM_ID
from billing.models.tokens import Clawback as Clawback
from billing.models.tokens import Draw as Draw
from billing.models.tokens import Hold as Hold
from billing.models.tokens import Lot as Lot
from billing.models.tokens import LotCursor as LotCursor
from billing.models.tokens import PriceListVersion as PriceListVersion
from billing.models.tokens import Rollup as Rollup
from billing.models.tokens import Spending as Spending
from billing.models.tokens import Transfer as Transfer
from billing.models.tokens import Wallet as Wallet
