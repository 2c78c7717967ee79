"""MUSE's criteria against muse_bench: its whole evaluation, on the same words and probabilities."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from official.taken import taken

from expunge.metrics.base import Evidence
from expunge.metrics.forget_curves import kept
from expunge.metrics.knowmem import KnowMem
from expunge.metrics.mia_loss import MiaLoss
from expunge.metrics.mia_min_k import MiaMinK
from expunge.metrics.mia_zlib import MiaZlib
from expunge.metrics.privleak import PrivLeak
from expunge.metrics.rouge_l import RougeL
from expunge.records.observation import Observations
from scored.cases import Chain, Compared, Source, each, furthest, spoken, value
from scored.stubs import Knows, Says

REPOSITORY = "swj0419/muse_bench"
COMMIT = "fcd6651da8bcf34744fb9a1cc69bb856ab3eb277"
FILES = ("eval.py", "constants.py", "metrics/logger.py", "metrics/verbmem.py", "metrics/knowmem.py",
         "metrics/privleak.py")
ROWS = 60
FOLDS = 4
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
Pairs = list[tuple[str, str]]


def quietly(call: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Without what they print and warn of."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*given, **named)


class Table(list[dict[str, Any]]):
    """Rows whose columns can be asked for: their eval asks a list for them."""

    def keys(self) -> Any:
        return self[0].keys()


class Theirs:
    """Their functions."""

    def __init__(self, code: Path) -> None:
        logger = taken(code / "metrics/logger.py", "RougeEvalLogger")
        self.verbmem = taken(code / "metrics/verbmem.py", "eval", RougeEvalLogger=logger, tzip=zip)
        self.knowmem = taken(code / "metrics/knowmem.py", "eval", RougeEvalLogger=logger, tzip=zip)
        each_text = taken(code / "metrics/privleak.py", "eval_data", tqdm=lambda rows: rows)
        self.privleak = taken(code / "metrics/privleak.py", "eval", eval_data=lambda *given: Table(each_text(*given)))
        self.retrained: Any = taken(code / "constants.py", "AUC_RETRAIN")
        self._model = {corpus: taken(
            code / "eval.py", "eval_model", eval_verbmem=self.verbmem, eval_knowmem=self.knowmem,
            eval_privleak=self.privleak, read_json=lambda rows: rows, LLAMA_DIR="", CORPORA=["news", "books"],
            SUPPORTED_METRICS=["verbmem_f", "privleak", "knowmem_f", "knowmem_r"], AUC_RETRAIN=of, DEFAULT_DATA={},
            LlamaForCausalLM=object, LlamaTokenizer=object) for corpus, of in self.retrained.items()}

    def score(self, metric: str, corpus: str, model: Any, tokenizer: Any, **data: Any) -> float:
        """One criterion as a fraction, privleak in per cent. The table of AUCs is laid flat, as eval.py reads it."""
        found = float(quietly(self._model[corpus], model, tokenizer, [metric], **data)[metric])
        return found if metric == "privleak" else found / 100

    def rows(self, function: Callable[..., Any], prompts: str, truths: str, pairs: Pairs) -> list[float]:
        """Of every row."""
        says = Says([text for _, text in pairs])
        _, log = quietly(function, says, says, **{prompts: ["?"] * len(pairs), truths: [a for a, _ in pairs]})
        return [one["rougeL"] for one in log]


def compare(code: Path, seed: int) -> Iterator[Compared]:
    theirs, source = Theirs(code), Source(seed)
    yield from _repeated(theirs, source)
    yield from _criteria(theirs, source)
    yield from _privacy(theirs, source)


def _pairs(source: Source, count: int = ROWS, *, breaks: bool = False, others: bool = False) -> Pairs:
    answers = [source.text(breaks=breaks, others=others, empty=False) for _ in range(count)]
    return [(answer, source.near(answer, breaks=breaks, others=others)) for answer in answers]


def _repeated(theirs: Theirs, source: Source) -> Iterator[Compared]:
    verbmem, knowmem = RougeL(measure="f1", stemmer=False), KnowMem()
    marked = [("... !", "... !"), ("東京", "東京"), ("cafe\u0301", "cafe\u0301"), ("cafe\u0301", "café")]
    for ours, ascii_only, name, function, keys in (
            (verbmem, RougeL(measure="f1", stemmer=False, letters="ascii"), "verbmem.eval", theirs.verbmem,
             ("prompts", "gts")),
            (knowmem, KnowMem(letters="ascii"), "knowmem.eval", theirs.knowmem, ("questions", "answers"))):
        plain = _pairs(source, breaks=True)
        yield Compared(ours.label("forget"), name, "each row; letters of Latin scripts", len(plain), furthest(
            each(ours, spoken(plain)), theirs.rows(function, *keys, plain)))
        mixed = _pairs(source, breaks=True, others=True) + marked
        published = theirs.rows(function, *keys, mixed)
        yield Compared(ascii_only.label("forget"), name, "each row; other scripts and split accents too",
                       len(mixed), furthest(each(ascii_only, spoken(mixed)), published))
        read = [(pair, one) for pair, one in zip(mixed, published, strict=True) if pair[0] != "... !"]
        yield Compared(ours.label("forget"), name, "each row; other scripts and split accents too", len(read), furthest(
            each(ours, spoken([pair for pair, _ in read])), [one for _, one in read]),
            "other scripts are read by their own words")


def _criteria(theirs: Theirs, source: Source) -> Iterator[Compared]:
    """The means, by their whole evaluation: of one model, of growing forget sets, of requests in turn."""
    def knowmem(pairs: Pairs, side: str) -> float:
        asked = [{"question": "Who?", "answer": answer} for answer, _ in pairs]
        says = Says([text for _, text in pairs])
        return theirs.score(f"knowmem_{side[0]}", "news", says, says, **{
            f"knowmem_{side}_qa_file": asked, f"knowmem_{side}_qa_icl_file": [{"question": "A?", "answer": "b"}]})

    pairs = _pairs(source, breaks=True)
    says = Says([text for _, text in pairs])
    whole = theirs.score("verbmem_f", "news", says, says,
                         verbmem_forget_file=[{"prompt": "?", "gt": answer} for answer, _ in pairs])
    yield Compared("forget.rouge_l(measure=f1, stemmer=False)", "verbmem_f of eval_model", "criterion 1, the mean", 1,
                   abs(value(RougeL(measure="f1", stemmer=False), spoken(pairs)) - whole))
    for side, split, what in (("forget", "forget", "criterion 2"), ("retain", "retain", "criterion 4, utility")):
        pairs = _pairs(source, breaks=True)
        mine = value(KnowMem(), spoken(pairs, split=split), split)  # type: ignore[arg-type]
        yield Compared(f"{split}.knowmem", f"knowmem_{side[0]} of eval_model", f"{what}, the mean", 1,
                       abs(mine - knowmem(pairs, side)))
    for what in ("criterion 5, scalability: utility after each of four forget sets, and its share of the first",
                 "criterion 6, sustainability: utility after each of four requests, and its share of the first"):
        folds = [_pairs(source, breaks=True) for _ in range(FOLDS)]
        ours = [value(KnowMem(), spoken(fold, split="retain"), "retain") for fold in folds]
        other = [knowmem(fold, "retain") for fold in folds]
        shares = furthest(kept(ours, ours[0]), [one / other[0] for one in other])
        yield Compared("retain.knowmem", "knowmem_r of eval_model", what, FOLDS, max(furthest(ours, other), shares))


def _privacy(theirs: Theirs, source: Source) -> Iterator[Compared]:
    """Texts of 25 characters and more, of which the lowest 5 % are one token at least; some stand on both sides."""
    def texts(count: int) -> list[str]:
        return [" ".join(source.text(12, others=True, empty=False) for _ in range(25))[: int(length)]
                for length in source.random.integers(25, 90, count)]

    forget, holdout = texts(30), texts(25)
    holdout += forget[:3]  # ties
    chain, gold = Chain(source), Chain(source)

    def observed(model: Chain) -> Observations:
        return Observations({("likelihood", side): [model.row(f"{side}{i}", text) for i, text in enumerate(rows)]  # type: ignore[misc]
                             for side, rows in (("forget", forget), ("holdout", holdout))})

    evidence = Evidence(observed(chain), retrained=(observed(gold),))
    found, kept_auc = (_aucs(theirs, model, forget, holdout) for model in (chain, gold))
    for metric, name in ((MiaLoss(), "PPL"), (MiaZlib(), "PPL/zlib")):
        yield Compared(metric.text(), f"forget_holdout_{name}", "complement of the AUC, with ties", 1,
                       abs(1 - value(metric, evidence, None) - found[f"forget_holdout_{name}"]))
    apart = [abs(1 - value(MiaMinK(k=k), evidence, None) - found[f"forget_holdout_Min-{int(k * 100)}%"])
             for k in SHARES]
    yield Compared("mia.min_k(k=...)", "forget_holdout_Min-5% to 60%", "complement of the AUC, with ties",
                   len(SHARES), max(apart))
    by = "forget_holdout_Min-40%"
    yield Compared("privleak", "(A - A_ret) / A_ret of two models", "criterion 3, a retrained model is given", 1,
                   abs(value(PrivLeak(), evidence, None) - 100 * (found[by] - kept_auc[by]) / kept_auc[by]))
    for corpus, aucs in theirs.retrained.items():
        mine = value(PrivLeak(retrained_auc=round(aucs[by], 10)), evidence, None)
        model = Knows(chain)
        published = theirs.score("privleak", corpus, model, model, privleak_forget_file=forget,
                                 privleak_retain_file=forget[:3], privleak_holdout_file=holdout)
        yield Compared(f"privleak(retrained_auc={aucs[by]:.4f})", "privleak of eval_model",
                       f"criterion 3, their stored AUC of {corpus}", 1, abs(mine - published))


def _aucs(theirs: Theirs, chain: Chain, forget: Sequence[str], holdout: Sequence[str]) -> dict[str, float]:
    model = Knows(chain)
    aucs: dict[str, float] = quietly(theirs.privleak, list(forget), list(forget[:3]), list(holdout), model, model)[0]
    return aucs
