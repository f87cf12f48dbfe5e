"""The accountant's books of the market: makers' shares and earnings, payouts at Stripe, trainings and versions."""

import time
from collections import Counter, defaultdict
from decimal import Decimal
from typing import Any

from bench.chaos import trainings
from bench.chaos.makers import EARLY
from bench.chaos.memory import Memory
from bench.chaos.stripe_side import StripeSide


def settle() -> list[str]:
    """Have Stripe carry out what is ordered, and everything follow; return a line if a payout stays ordered."""
    from billing.models import Payout
    from billing.tokens import lots, marketing, takebacks
    from marketplace.maintenance import tasks

    ordered = Payout.objects.filter(status="ordered")
    for _ in range(20):
        ordered.update(due_at=EARLY)
        tasks.keep_payouts()
        if not ordered.exists():
            break
        time.sleep(1)
    lots.catch_up(), marketing.weigh(), takebacks.recover()
    return [f"{payout} waits: {payout.failure}" for payout in ordered]


def audit(stripe: StripeSide, memory: Memory, figures: dict[str, Any]) -> list[str]:
    """Return a line for each difference."""
    return [*_shares(figures), *_earnings(figures), *_payouts(stripe, memory, figures), *_trainings(memory, figures)]


def _shares(figures: dict[str, Any]) -> list[str]:
    """Check that each charge gave each maker the share of the fee that the order's terms say, in one transfer.

    And that the terms were listed before the order; nothing is paid for one's own adapter.
    """
    from billing.models import Transfer
    from lora.models import Listing
    from marketplace.jobs.models import Job

    given: dict[Any, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    moves = Transfer.objects.filter(kind="capture", target__kind="creator")
    for reference, owner, amount in moves.values_list("reference", "target__owner", "amount"):
        given[reference][str(owner)].append(amount)
    listed = set(Listing.objects.values_list("version__adapter_id", "version__number", "fee", "share"))
    wrong, uses = [], Counter[str]()
    for job in Job.objects.filter(captured__gt=0).only("id", "account_id", "captured", "quote"):
        terms = [_thousandths(each) for each in job.quote.get("adapters", ())]
        factor = 1000 + sum(each["surcharge"] + each["fee"] for each in terms)
        due: Counter[str] = Counter()
        for each in terms:
            uses["own" if each["maker"] == str(job.account_id) else "of others"] += 1
            due[each["maker"]] += job.captured * each["fee"] * each["share"] // (factor * 1000)
            if each["maker"] == str(job.account_id):
                is_right = each["fee"] == 0
            else:
                places = {(str(place), *rest) for place, *rest in listed}
                is_right = (each["adapter"], each["version"], each["fee"], each["share"]) in places
            if not is_right:
                wrong.append(f"job {job.id} was sold on terms that were never listed: {each}")
        found = given.pop(job.id, {})
        if {maker: [amount] for maker, amount in due.items() if amount} != found:
            wrong.append(f"job {job.id}, charged {job.captured}: makers are due {dict(due)}, got {dict(found)}")
    wrong += [f"shares of {reference}, which was not charged: {dict(found)}" for reference, found in given.items()]
    figures["uses of adapters"] = dict(uses)
    return wrong


def _thousandths(terms: dict[str, Any]) -> dict[str, Any]:
    """Return an adapter's terms as a quote has them, with integers."""
    return terms | {name: int(1000 * Decimal(terms.get(name, 0))) for name in ("surcharge", "fee", "share")}


def _earnings(figures: dict[str, Any]) -> list[str]:
    """Check that each maker's earnings are the shares of captures, less what was taken back, and nobody's below 0."""
    from django.db.models import Sum

    from billing.models import Earning, Exchange, Payout, Purse, Transfer, Wallet
    from billing.tokens import earnings

    wrong: list[str] = []
    total: Counter[str] = Counter()
    for maker in Wallet.objects.filter(kind="creator"):
        sums: Counter[str] = Counter()
        for side, sign in (("target", 1), ("source", -1)):
            moved = Transfer.objects.filter(**{side: maker}).values_list("kind").annotate(Sum("amount"))
            for kind, amount in moved:
                sums[kind] += sign * amount
        rows = Earning.objects.filter(maker=maker)
        kept = rows.aggregate(
            amount=Sum("amount", default=0), back=Sum("back", default=0), owed=Sum("owed", default=0),
            money=Sum("money_minor", default=0), money_back=Sum("back_minor", default=0),
            money_owed=Sum("owed_minor", default=0),
        )  # fmt: skip
        if (kept["amount"], -kept["back"]) != (sums["capture"], sums["refund"]):
            wrong.append(
                f"maker {maker.owner}: got {sums['capture']}, gave back {-sums['refund']}, earnings are {kept}"
            )
        if kept["owed"] != -(sums["takeback"] + sums["giveback"]):
            wrong.append(f"maker {maker.owner}: {kept['owed']} of the earnings are away, transfers are {dict(sums)}")
        if sum(sums.values()) < 0:
            wrong.append(f"maker {maker.owner} is overdrawn: {dict(sums)}")
        if rows.filter(weighed=False).exists():
            wrong.append(f"maker {maker.owner} has earnings of which nobody decided what they are worth")
        inside = earnings.purses(maker.id)
        spent = Exchange.objects.filter(purse__maker=maker).aggregate(
            a=Sum("amount", default=0), m=Sum("money_minor", default=0)
        )
        paid = Payout.objects.filter(purse__maker=maker).aggregate(
            a=Sum("amount", default=0) - Sum("back", default=0),
            m=Sum("money_minor", default=0) - Sum("back_minor", default=0),
        )
        has = sum(each.amount for each in inside) + spent["a"] + paid["a"]
        worth = sum(each.money_minor for each in inside) + spent["m"] + paid["m"]
        if (has, worth) != (
            kept["amount"] - kept["back"] - kept["owed"], kept["money"] - kept["money_back"] - kept["money_owed"],
        ):  # fmt: skip
            wrong.append(f"maker {maker.owner}: has, spent and was paid {has} worth {worth}, earnings are {kept}")
        total.update(sums)
        total.update({"earned, in cents": kept["money"] - kept["money_back"], "away": kept["owed"]})
    total["advanced now"] = Purse.objects.aggregate(sum=Sum("advanced", default=0))["sum"]
    figures["makers, in milli-Tokens"] = {name: abs(amount) for name, amount in sorted(total.items())}
    return wrong + _refunds()


def _refunds() -> list[str]:
    """Check that of each refund every maker gave the part that they got of the charge, all of it at the end."""
    from billing.models import PLATFORM_ID, Hold, Transfer

    wrong = []
    parts: dict[Any, dict[Any, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    moves = Transfer.objects.filter(kind__in=["capture", "refund"])
    for reference, kind, source, target, amount in moves.values_list("reference", "kind", "source", "target", "amount"):
        parts[reference][target if kind == "capture" else source][kind] += amount
    for reference, captured, refunded in Hold.objects.filter(refunded__gt=0).values_list(
        "reference", "captured", "refunded"
    ):
        for wallet, sums in parts[reference].items():
            least = sums["capture"] * refunded // captured
            if wallet != PLATFORM_ID and not least <= sums["refund"] <= sums["capture"]:
                wrong.append(f"of {refunded} of {captured} refunded of {reference}, wallet {wallet} gave {dict(sums)}")
    return wrong


def _payouts(stripe: StripeSide, memory: Memory, figures: dict[str, Any]) -> list[str]:
    """Check that each payout is at Stripe once, to the cent, or came back; and that nothing else is there."""
    from billing.models import Payout

    at_stripe: dict[str, list[Any]] = defaultdict(list)
    for each in stripe.every("transfers"):
        at_stripe[each["metadata"].get("payout", "")].append(each)
    rows = {str(each.id): each for each in Payout.objects.select_related("purse")}
    wrong = [f"payout {key} is at Stripe {len(found)} times: {found}" for key, found in at_stripe.items()
             if len(found) != 1 or key not in rows]  # fmt: skip
    sums: Counter[str] = Counter()
    for key, payout in rows.items():
        found = at_stripe.get(key, [])
        terms = [(each["id"], each["amount"], each["currency"], each["destination"], each["amount_reversed"])
                 for each in found]  # fmt: skip
        said = [(payout.transfer_id, payout.money_minor, payout.purse.currency, payout.account_id, payout.back_minor)]
        if terms != ([] if payout.status == "failed" else said):
            wrong.append(f"{payout} is {payout.status}: {said}, at Stripe are {terms}")
        for each in found:
            sums[each["currency"]] += each["amount"] - each["amount_reversed"]
            sums[f"reversed {each['currency']}"] += each["amount_reversed"]
    wrong += [f"payout {each} was ordered, and the books have none" for each in memory.payouts - rows.keys()]
    figures["payouts"] = dict(Counter(each.status for each in rows.values()))
    figures["cents that makers have at Stripe"] = dict(sums)
    return wrong


def _trainings(memory: Memory, figures: dict[str, Any]) -> list[str]:
    """Check that each training was asked for once, and charged by its steps; only what was charged has a version."""
    from billing.models import Transfer
    from lora.models import Version
    from marketplace.trainings.models import Training

    charged: dict[Any, list[int]] = defaultdict(list)
    rows = {each.id: each for each in Training.objects.select_related("version")}
    for reference, amount in Transfer.objects.filter(kind="capture", reference__in=rows).values_list(
        "reference", "amount"
    ):
        charged[reference].append(amount)
    known = {each.idempotency_key: str(each.id) for each in rows.values()}
    wrong = [f"training {key} was {training_id}, the books say {known.get(key)}"
             for key, training_id in memory.trainings.items() if known.get(key) != training_id]  # fmt: skip
    for each in rows.values():
        due = {"succeeded": each.steps, "canceled": each.step}.get(each.status, 0) * trainings.STEP_COST
        right = [[due] if due else []] + ([[]] if each.status == "canceled" else [])  # free while it is queued
        if each.quoted != each.steps * trainings.STEP_COST or charged[each.id] not in right:
            wrong.append(f"{each} is {each.status} after {each.step} of {each.steps}: due {due}, {charged[each.id]}")
        if each.captured != sum(charged[each.id]) or (each.status == "succeeded" and each.version is None):
            wrong.append(f"{each} is {each.status}, says {each.captured} and made {each.version}")
    made = Version.objects.filter(origin="trained").values_list("id", "status", "adapter_id")
    paid = {each.version_id: each for each in rows.values() if each.version_id and each.captured}
    wrong += [f"version {key} of adapter {adapter} is {status}, and nobody paid for its training"
              for key, status, adapter in made if key not in paid or status != "ready"]  # fmt: skip
    figures["trainings"] = dict(Counter(each.status for each in rows.values()))
    figures["attempts at trainings"] = sum(each.attempt for each in rows.values())
    figures["versions of adapters"] = dict(Counter(Version.objects.values_list("origin", flat=True)))
    return wrong
