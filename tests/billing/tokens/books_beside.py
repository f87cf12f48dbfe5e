"""A model of wallets, lots and debts: a few dictionaries, and rules that have the same done to both."""

from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db import connection, transaction
from django.db.models import F, Sum
from django.utils import timezone
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from billing import errors
from billing.models import Clawback, Earning, Hold, Lot, Transfer, Wallet
from billing.tokens import debts, holds, ledger, lots, proof, wallets
from billing.tokens.wallets import Balance, Captured, Share
from tests.billing.books import HOUR, refused, repeat, rows
from tests.billing.tokens import naive

MOMENT = timedelta(microseconds=1)
OWNERS = (UUID(int=1), UUID(int=2))
CREATOR = UUID(int=3)
LARGEST = 6
amounts = st.integers(1, LARGEST)
owners = st.sampled_from(OWNERS)
keys = st.sampled_from("abcdefgh")
NOW = timezone.now()
EXPIRES = {naive.PAST: NOW - HOUR, naive.SOON: NOW + 24 * HOUR, naive.NEVER: None}
expiries = st.sampled_from(list(EXPIRES))

BESIDE = ["takeback", "giveback", "advance", "recovery", "payout", "payout_return"]
"""The kinds of transfers that no customer's wallet has."""
FOLLOWED = """
SELECT wallet.owner, count(*) FROM billing_lotcursor JOIN billing_wallet AS wallet ON wallet.id = wallet_id
JOIN billing_transfer AS transfer ON wallet_id IN (source_id, target_id) AND transfer.id <= last_transfer_id
GROUP BY wallet.owner
"""


class Books(RuleBasedStateMachine):
    """Every rule works out from the model what must happen, has it done, and compares.

    The model: Tokens that each wallet has, each hold by reference, what each idempotency key stands for, the
    transfers of each wallet for `naive.Lots` to follow, and the debts.
    """

    creator = CREATOR
    references = Bundle("references")
    charged = Bundle("charged")
    bought = Bundle("bought")
    owed = Bundle("owed")

    def __init__(self) -> None:
        super().__init__()
        self.story = transaction.atomic()
        self.story.__enter__()
        with connection.cursor() as cursor:  # the proof is quick on a few rows, and starting its helpers is not
            cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        self.total = dict.fromkeys(OWNERS, 0)
        self.holds: dict[UUID, dict[str, Any]] = {}
        self.keys: dict[tuple[str, str], tuple[Any, int]] = {}
        self.summed: Counter[str] = Counter()
        self.moves = 0
        self.transfers: dict[UUID, list[tuple[str, int, Any]]] = {owner: [] for owner in OWNERS}
        self.debts: dict[UUID, dict[str, Any]] = {}
        for owner in OWNERS:
            wallets.create(owner)
            self.grant(owner, LARGEST, f"start {owner}", naive.NEVER)
        wallets.create(self.creator, Wallet.Kind.CREATOR)

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.story.__exit__(None, None, None)

    def available(self, owner: UUID) -> int:
        held = sum(hold["amount"] for hold in self.open_holds() if hold["owner"] == owner)
        return self.total[owner] - held

    def spendable(self, owner: UUID) -> int:
        """What is available once everything that has expired is taken."""
        lapsed = sum(lot.left for lot in self.lots_of(owner).lots if lot.expires[0] == naive.PAST)
        return max(0, self.available(owner) - lapsed)

    def expire_all(self, owner: UUID) -> int:
        """What the model takes of expired lots."""
        taken = 0
        for lot in self.lots_of(owner).order():
            if lot.expires[0] == naive.PAST and (amount := min(lot.left, self.available(owner))):
                self.moved(owner, "expiry", amount, lot.id)
                taken += amount
        return taken

    def open_holds(self) -> list[dict[str, Any]]:
        return [hold for hold in self.holds.values() if hold["status"] == "held"]

    def moved(self, owner: UUID, kind: str, amount: int, named: Any) -> None:
        """One transfer: into this wallet, or out of it to the mint or (captures) to where the rule says."""
        self.transfers[owner].append((kind, amount, named))
        self.total[owner] += amount if kind in ("in", "refund") else -amount
        if kind == "in":
            self.summed["mint"] -= amount
        elif kind in ("expiry", "clawback", "settlement"):
            self.summed["mint"] += amount
        self.moves += 1

    def lots_of(self, owner: UUID) -> naive.Lots:
        return naive.Lots(self.transfers[owner])

    @rule(owner=owners, amount=amounts, key=keys, expires=expiries)
    def grant(self, owner, amount, key, expires):
        standing = self.keys.get(("grant", key))
        if standing is None:
            assert wallets.grant(owner, amount, key, expires_at=EXPIRES[expires]) is True
            self.keys["grant", key] = (owner, amount)
            lot = Lot.objects.get(transfer__idempotency_key=f"grant:{key}").id
            self.moved(owner, "in", amount, (lot, False, amount, 0, "", (expires, 0)))
            self.pay(owner)
        elif standing == (owner, amount):
            repeat(wallets.grant, owner, amount, key)
        else:
            refused(errors.IdempotencyMismatch, wallets.grant, owner, amount, key)

    @rule(
        target=bought, owner=owners, amount=amounts, price=st.integers(1, 9), currency=st.sampled_from(["eur", "usd"]),
        expires=expiries,
    )  # fmt: skip
    def purchase(self, owner, amount, price, currency, expires):
        lot = wallets.purchase(owner, amount, price, currency, str(uuid4()), EXPIRES[expires])
        self.moved(owner, "in", amount, (lot, True, amount, price, currency, (expires, 0)))
        self.pay(owner)
        return owner, lot, price

    @rule(owner=owners)
    def allocate(self, owner):
        position = lots.position(owner)
        self.expire_all(owner)
        assert [(lot.id, lot.remaining) for lot in position.lots] == [
            (lot.id, lot.left) for lot in self.lots_of(owner).order()
        ]

    @rule(reference=charged)
    def cost(self, reference):
        parts = {(part.lot, part.currency): (part.amount, part.money_minor) for part in lots.cost(reference).parts}
        assert parts == self.lots_of(self.holds[reference]["owner"]).cost(reference)

    @rule()
    def expire_lots(self):
        lots.catch_up()
        assert lots.expire() == sum(map(self.expire_all, OWNERS))

    @rule(target=owed, bought=bought, money=st.integers(1, 9), key=keys)
    def claw_back(self, bought, money, key):
        owner, lot_id, price = bought
        earlier = [self.demanded(debt) for debt in self.debts.values() if debt["lot"] == lot_id]
        gone_back = sum(money for money, _ in earlier)
        money = min(money, price - gone_back) or money
        arguments = (lot_id, money, "dispute", key)
        standing = self.keys.get(("clawback", key))
        if standing == (lot_id, money):
            before = rows()
            debt = debts.claw_back(*arguments).id
            assert rows() == before
            return debt
        if standing is not None:
            refused(errors.IdempotencyMismatch, debts.claw_back, *arguments)
            return multiple()
        if gone_back + money > price:
            refused(errors.ClawbackAbovePrice, debts.claw_back, *arguments)
            return multiple()
        lot = self.lots_of(owner).lot(lot_id)
        unspent, lapsed = lot.left + lot.gone.get("clawback", 0), lot.gone.get("expiry", 0)
        share = lot.amount * (gone_back + money) // price
        demand = min(share, unspent) + max(0, share - unspent - lapsed)
        amount = max(0, demand - sum(tokens for _, tokens in earlier))
        debt = debts.claw_back(*arguments)
        self.keys["clawback", key] = (lot_id, money)
        self.debts[debt.id] = {"owner": owner, "lot": lot_id, "money": money, "amount": amount, "collected": 0}
        self.debts[debt.id] |= {"settled": not amount, "void": False}
        self.pay(owner)
        return debt.id

    @staticmethod
    def demanded(debt: dict[str, Any]) -> tuple[int, int]:
        """Money and milli-Tokens that count as demanded; of a debt whose money came back, what had been collected."""
        if not debt["void"]:
            return debt["money"], debt["amount"]
        return debt["money"] * debt["collected"] // max(1, debt["amount"]), debt["collected"]

    def pay(self, owner: UUID) -> int:
        """What the model pays of a customer's debts: of their own lots, and then of other paid ones that are good."""
        paid = sum(self.collect_one(debt_id) for debt_id in self.open_debts(owner))
        if left := self.open_debts(owner):
            self.expire_all(owner)
            paid += sum(self.settle_one(debt_id) for debt_id in left)
        return paid

    def settle_one(self, debt_id: UUID) -> int:
        debt = self.debts[debt_id]
        good = sum(lot.left for lot in self.lots_of(debt["owner"]).lots if lot.paid)
        amount = min(debt["amount"] - debt["collected"], good, self.available(debt["owner"]))
        if amount:
            self.moved(debt["owner"], "settlement", amount, None)
        debt["collected"] += amount
        debt["settled"] = debt["collected"] == debt["amount"]
        return amount

    def collect_one(self, debt_id: UUID) -> int:
        """What the model takes from the debt's own lot."""
        debt = self.debts[debt_id]
        lot = self.lots_of(debt["owner"]).lot(debt["lot"])
        amount = min(debt["amount"] - debt["collected"], lot.left, self.available(debt["owner"]))
        if amount:
            self.moved(debt["owner"], "clawback", amount, debt["lot"])
        debt["collected"] += amount
        debt["settled"] = debt["collected"] == debt["amount"]
        return amount

    def open_debts(self, owner: UUID) -> list[UUID]:
        return [debt_id for debt_id, debt in self.debts.items() if debt["owner"] == owner and not debt["settled"]]

    def is_frozen(self, owner: UUID) -> bool:
        return bool(self.open_debts(owner))

    @rule()
    def collect(self):
        lots.catch_up()
        assert debts.collect() == 0
        for owner in filter(self.available, OWNERS):
            assert self.pay(owner) == 0

    @rule(debt_id=owed)
    def waive(self, debt_id):
        if self.debts[debt_id]["settled"]:
            repeat(debts.waive, debt_id, "forgiven")
        else:
            assert debts.waive(debt_id, "forgiven") is True
            self.debts[debt_id]["settled"] = True
            self.pay(self.debts[debt_id]["owner"])

    @rule(target=references, owner=owners, amount=amounts, expires_in=st.sampled_from([MOMENT, HOUR]))
    def hold(self, owner, amount, expires_in):
        reference = uuid4()
        if self.is_frozen(owner):
            refused(errors.AccountFrozen, wallets.hold, owner, amount, reference, expires_in)
            return multiple()
        if self.spendable(owner) < amount:
            refused(errors.InsufficientTokens, wallets.hold, owner, amount, reference, expires_in)
            return multiple()
        wallets.hold(owner, amount, reference, expires_in)
        self.expire_all(owner)
        self.holds[reference] = {
            "owner": owner,
            "amount": amount,
            "status": "held",
            "captured": 0,
            "refunded": 0,
            "due": expires_in is MOMENT,
        }
        return reference

    @rule(reference=references, owner=owners, amount=amounts)
    def hold_again(self, reference, owner, amount):
        short = errors.InsufficientTokens if self.spendable(owner) < amount else errors.HoldExists
        error = errors.AccountFrozen if self.is_frozen(owner) else short
        refused(error, wallets.hold, owner, amount, reference, HOUR)

    @rule(target=charged, reference=references, charge=amounts, share=st.integers(0, LARGEST - 1))
    def capture(self, reference, charge, share):
        share = min(share, charge - 1)
        shares = [Share(self.creator, share), Share("platform", charge - share)] if share else None
        arguments = (reference, charge, shares)
        hold = self.holds[reference]
        if hold["status"] != "held":
            refused(errors.HoldResolved, wallets.capture, *arguments)
        elif charge > hold["amount"]:
            refused(errors.ChargeAboveHold, wallets.capture, *arguments)
        else:
            assert wallets.capture(*arguments) == Captured(charge, hold["amount"] - charge)
            hold |= {"status": "captured", "captured": charge}
            hold["share"] = share
            for whom, part in [("creator", share), ("platform", charge - share)] if share else [("platform", charge)]:
                self.moved(hold["owner"], "capture", part, (reference, whom))
            self.summed.update(creator=share, platform=charge - share)
            self.pay(hold["owner"])
            return reference
        return multiple()

    @rule(target=charged, owner=owners, charge=st.integers(1, 3 * LARGEST))
    def buy(self, owner, charge):
        """A hold that is captured at once: most of what happens to lots."""
        charge = min(charge, self.spendable(owner))
        buys = charge and not self.is_frozen(owner)
        return self.capture(self.hold(owner, charge, HOUR), charge, 0) if buys else multiple()

    @rule(reference=references)
    def release(self, reference):
        hold = self.holds[reference]
        if hold["status"] != "held":
            refused(errors.HoldResolved, wallets.release, reference)
        else:
            assert wallets.release(reference) == hold["amount"]
            hold["status"] = "released"
            self.pay(hold["owner"])

    @rule(reference=references)
    def expire(self, reference):
        hold = self.holds[reference]
        if hold["status"] != "held":
            refused(errors.HoldResolved, wallets.expire, reference)
        elif not hold["due"]:
            refused(errors.HoldNotDue, wallets.expire, reference)
        else:
            assert wallets.expire(reference) == hold["amount"]
            hold["status"] = "expired"
            self.pay(hold["owner"])

    @rule(reference=charged, amount=st.integers(1, 3), key=keys)
    def refund(self, reference, amount, key):
        hold = self.holds[reference]
        standing = self.keys.get(("refund", key))
        if standing == (reference, amount):
            repeat(wallets.refund, reference, amount, key)
        elif standing is not None:
            refused(errors.IdempotencyMismatch, wallets.refund, reference, amount, key)
        elif hold["refunded"] + amount > hold["captured"]:
            refused(errors.RefundAboveCapture, wallets.refund, reference, amount, key)
        else:
            assert wallets.refund(reference, amount, key) is True
            self.keys["refund", key] = (reference, amount)
            before, hold["refunded"] = hold["refunded"], hold["refunded"] + amount
            until, since = (hold["share"] * refunded // hold["captured"] for refunded in (hold["refunded"], before))
            for whom, part in (("creator", until - since), ("platform", amount - until + since)):
                if part:
                    self.moved(hold["owner"], "refund", part, (reference, whom))
                    self.summed[whom] -= part
            self.pay(hold["owner"])

    @invariant()
    def every_balance_is_the_models(self):
        for owner, total in self.total.items():
            free = self.available(owner)
            assert wallets.balance(owner) == Balance(available=free, held=total - free, total=total)
            assert free >= 0

    @invariant()
    def every_lot_is_the_models_as_far_as_its_wallets_cursor(self):
        with connection.cursor() as cursor:
            cursor.execute(FOLLOWED)
            followed = dict(cursor.fetchall())
        stories = [naive.Lots(self.transfers[owner][: followed.get(owner, 0)]) for owner in OWNERS]
        found = Lot.objects.filter(transfer_id__lte=F("wallet__lot_cursor__last_transfer_id"))
        assert {row[0]: row[1:] for row in found.values_list("id", "remaining", "spent_minor")} == {
            lot.id: (lot.left, lot.spent) for story in stories for lot in story.lots
        }

    @invariant()
    def every_debt_is_the_models(self):
        found = Clawback.objects.values_list("id", "amount", "collected", "settled_at")
        assert {row[0]: (row[1], row[2], row[3] is not None) for row in found} == {
            debt_id: (debt["amount"], debt["collected"], debt["settled"]) for debt_id, debt in self.debts.items()
        }
        frozen = {owner for owner in OWNERS if self.is_frozen(owner)}
        assert set(Wallet.objects.filter(frozen=True).values_list("owner", flat=True)) == frozen

    @invariant()
    def nobody_owes_while_paid_tokens_are_available(self):
        for owner in filter(self.is_frozen, OWNERS):
            wallet = Wallet.objects.get(owner=owner, kind=Wallet.Kind.CUSTOMER)
            paid = sum(lot.remaining for lot in lots.allocate(wallet.id).lots if lot.kind == Lot.Kind.PAID)
            assert min(wallets.balance(owner).available, paid) == 0

    def away(self) -> dict[tuple[UUID, UUID], int]:
        """What the model says is away of the maker's earnings, by job and lot."""
        owed: Counter[tuple[UUID, UUID]] = Counter()
        for debt_id in [debt_id for owner in OWNERS for debt_id in self.open_debts(owner)]:
            debt = self.debts[debt_id]
            owed[debt["owner"], debt["lot"]] += debt["amount"] - debt["collected"]
        return {(job, lot): amount for (owner, lot), most in owed.items()
                for job, amount in self.lots_of(owner).away(lot, most).items() if amount}  # fmt: skip

    @invariant()
    def what_is_away_of_every_earning_is_the_models(self):
        found = Earning.objects.filter(owed__gt=0).values_list("reference", "lot", "owed")
        assert {(job, lot): owed for job, lot, owed in found} == self.away()

    @invariant()
    def every_hold_is_the_models(self):
        found = Hold.objects.values_list("reference", "wallet__owner", "amount", "status", "captured", "refunded")
        names = ("owner", "amount", "status", "captured", "refunded")
        assert {row[0]: row[1:] for row in found} == {
            reference: tuple(hold[name] for name in names) for reference, hold in self.holds.items()
        }

    @invariant()
    def what_is_due_is_what_the_model_has_left_open_for_too_long(self):
        assert set(holds.due()) == {
            reference for reference, hold in self.holds.items() if hold["status"] == "held" and hold["due"]
        }

    @invariant()
    def the_transfers_add_up_to_the_models_sums(self):
        assert Transfer.objects.exclude(kind__in=BESIDE).count() == self.moves
        for owner, total in self.total.items():
            running = total
            for entry in ledger.statement(owner, limit=1_000):
                assert entry.balance == running
                running -= entry.amount
            assert running == 0
        came, went = (self.sums(side) for side in ("target", "source"))
        came.subtract(went)
        expected = Counter(self.summed)
        expected.update(self.beside())
        assert +came == +expected
        assert -came == -expected
        assert sum(self.summed.values()) + sum(self.total.values()) == 0

    def beside(self) -> dict[str, int]:
        """What moved between the platform, the mint and the maker."""
        away = sum(self.away().values())
        return {"creator": -away, "platform": away}

    @staticmethod
    def sums(side: str) -> Counter[str]:
        """milli-Tokens by the kind of the wallet on this side of a transfer, customers' left out."""
        summed = Transfer.objects.exclude(**{f"{side}__kind": "customer"}).values_list(f"{side}__kind")
        return Counter(dict(summed.annotate(Sum("amount"))))

    @invariant()
    def the_ledger_proves_itself(self):
        assert proof.check() == []
