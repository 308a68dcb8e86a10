"""The pre-training step: the heart of the bench, the same for every recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mimbench import registry
from mimbench.config.schema import EncoderConfig, from_spec
from mimbench.config.terms import TeacherConfig
from mimbench.data.sampling import derive
from mimbench.data.views import normalize
from mimbench.models.encoder import Encoder, choose_attention, make_encoder
from mimbench.models.teacher import Teacher
from mimbench.parts import Batch, Masks, Taught
from mimbench.pretrain.fit import Objective
from mimbench.pretrain.masks import StepMasks, guided
from mimbench.pretrain.notes import Notes
from mimbench.pretrain.terms import FrozenTokenizer, Term, make_terms, specs_of, views_of
from mimbench.pretrain.tokenizer import make_tokenizer
from mimbench.runtime import Runtime

ByView = dict[str, Tensor]
Teaching = dict[tuple[str, str], Taught]  # by term and view
Compared = tuple[Term, ByView, ByView, dict[str, Masks], Teaching]  # predictions, then targets
Views = dict[str, Batch]  # by copy: `raw`, `image`, `label` where there are labels, and what FrozenTokenizer reads


class Pretraining(Objective):
    """For each term: predictions of its views, targets of its views, the loss over the pairs of the two."""

    terms: Any  # ModuleList of Term
    decoders: Any  # ModuleDict, by the term that owns each
    notes: Notes | None  # where a step is to note more than its loss

    def forward(self, micro: dict[str, Any]) -> Tensor:
        loss: Any = 0.0
        for term, prediction, target, masks, taught in self.compared(micro):
            with torch.autocast(micro["device"], enabled=False):
                before = loss
                for student, source in term.pairs:
                    values = term.values(prediction[student], target[source], masks.get(source), micro["first"])
                    count = term.count(masks.get(source), micro["images"])
                    loss = loss + term.weight * values.sum() / (count * len(term.pairs))
                loss = loss + self.own_loss(term, taught, target) * (micro["count"] / micro["images"])
                if self.notes is not None:
                    compared = [term.predicted(found, masks.get(view)) for view, found in target.items()]
                    self.notes.add(term.name, loss - before, compared, self.codes.get(term.name))
        return loss

    def compared(self, micro: dict[str, Any]) -> Iterator[Compared]:
        """For each term its predictions and its targets by view, the masks, and what the teacher made of the views."""
        masks: dict[str, Masks] = micro["masks"]
        views: Views = {name: {**view, "image": normalize(view["raw"])} for name, view in micro["views"].items()}
        taught = self.teach(views, masks, micro["progress"])
        masks = {name: self.guide(drawn, name, taught) for name, drawn in masks.items()}
        encoded = {name: self.encoder(views[name]["image"], masks.get(name), self.taps) for name in self.seen}
        frozen: dict[tuple[str, str], Tensor] = {}
        predicted: dict[str, dict[str, Tensor]] = {}
        for term in self.terms:
            decoder, on = self.decoders[term.decoder], masks if term.level == "patch" else {}
            read = {v: term.reads(encoded[v], on.get(v), predicted, v) for v in term.views}
            predicted[term.name] = prediction = {v: decoder(read[v], on.get(v)) for v in term.views}  # (M, W) or (B, W)
            with torch.autocast(micro["device"], enabled=False):
                prediction = {v: p.float() for v, p in prediction.items()}
                target = {v: self.target(term, v, views, masks, taught, prediction, frozen) for v in term.targets}
            yield term, prediction, target, masks, taught

    def teach(self, views: Views, masks: dict[str, Masks], progress: float) -> dict[tuple[str, str], Taught]:
        """What the teacher makes of the views, by term and view."""
        found = {}
        if self.teacher is not None:
            with torch.no_grad():
                for name in self.shown:
                    encoded = self.teacher.see(views[name]["image"], masks.get(name), self.teacher_taps)
                    for term in self.terms:
                        head = None if self.teacher.frozen else self.teacher.decoders[term.decoder]
                        found[term.name, name] = Taught(encoded, head, progress)
        return found

    def guide(self, masks: Masks, view: str, taught: dict[tuple[str, str], Taught]) -> Masks:
        """Finish masks that follow the teacher's attention."""
        if masks.noise is None or self.teacher is None:
            return masks
        encoder = self.teacher.encoder
        encoded = next(found.encoded for (_, name), found in taught.items() if name == view)
        return guided(masks, encoder.class_attention(encoded.taps[encoder.depth - 2]))

    def target(
        self, term: Term, view: str, views: Views, masks: dict[str, Masks], taught: dict[tuple[str, str], Taught],
        prediction: dict[str, Tensor], frozen: dict[tuple[str, str], Tensor],
    ) -> Tensor:  # fmt: skip
        """Of all patches (B, N, ...), or of the images (B, ...). In fp32: half precision changes some codes."""
        if term.tokenizer.reads == "student":
            return prediction[view]  # with its gradient
        with torch.no_grad():
            if term.has_teacher:
                return term.tokenizer(taught[term.name, view], masks.get(view), term.level)
            if (term.key, view) not in frozen:
                frozen[term.key, view] = term.tokenizer(views[view])
            return frozen[term.key, view]

    def own_loss(self, term: Term, taught: dict[tuple[str, str], Taught], target: dict[str, Tensor]) -> Any:
        """Of a tokenizer that learns while it is used; its gradient reaches the tokenizer only."""
        if not term.has_teacher:
            return 0.0
        losses = (term.tokenizer.own_loss(taught[term.name, view], target[view]) for view in term.targets)
        return sum((loss / len(term.targets) for loss in losses if loss is not None), 0.0)

    # before, and around the update

    def __init__(
        self,
        encoder: Encoder,
        recipe: dict[str, Any],
        tokenizers: dict[str, Any],
        seed: int,
        teacher: Encoder | None = None,
    ) -> None:
        """`teacher`: another row's encoder; without one, a recipe with a teacher follows `encoder`."""
        super().__init__()
        self.encoder, self.steps, self.notes = encoder, recipe["schedule"]["steps"], None
        self.teacher: Teacher | None = None
        teacher = teacher or encoder
        for name, tokenizer in tokenizers.items():
            if tokenizer.reads == "teacher":
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(derive(seed, "tokenizer", name))
                    tokenizer.build(teacher.dim, teacher.depth)
            elif tokenizer.reads == "student":
                tokenizer.build(encoder.dim, encoder.depth)
        self.terms, self.decoders = make_terms(recipe, encoder, tokenizers, seed)
        self.codes = {name: t.width(encoder.grid) for name, t in tokenizers.items() if t.target != "features"}
        if recipe.get("teacher"):
            config = from_spec(TeacherConfig, {"row": None, **recipe["teacher"]})
            self.teacher = Teacher(config, teacher, self.decoders, frozen=recipe["teacher"]["frozen"])
        terms: list[Any] = list(self.terms)
        self.seen = sorted({view for term in terms for view in term.views})
        self.shown = sorted({view for term in terms if term.has_teacher for view in term.targets})
        decoders: list[Any] = [decoder for decoder in self.decoders.values() if hasattr(decoder, "taps")]
        self.taps = _union(decoder.taps(encoder.depth) for decoder in decoders)
        self.teacher_taps = _union(term.tokenizer.taps() for term in terms if term.has_teacher)
        # `rows`: each prediction needs the features of its own position only
        encoder.only_predicted = all(hasattr(decoder, "rows") for decoder in self.decoders.values()) and (
            encoder.depth - 1 not in self.taps
        )
        masker, drop = registry.build("masker", recipe["masker"]), encoder.config.masking == "drop"
        if hasattr(masker, "noise"):
            self.teacher_taps = _union([self.teacher_taps, (teacher.depth - 2,)])
        weighted = any(term.by_image for term in terms)
        views = recipe.get("views", {})
        self.masks = {
            copy: StepMasks(
                masker, encoder.grid, drop=drop, seed=seed, weighted=weighted, names=(copy,) if views else ()
            )
            for copy, view in views_of(recipe).items()
            if not views or views[view]["masked"]
        }
        # a decoder that could restore the grid has nothing to restore where no patch is dropped
        self.may_leave_unused = any(decoder.restores_grid for decoder in self.decoders.values()) and not drop

    def prepare(self, batch: dict[str, Any], step: int, runtime: Runtime) -> list[Any]:
        raws = batch["views"] if "views" in batch else {"image": batch["raw"]}
        share = len(next(iter(raws.values())))
        size = min(runtime.micro_batch or share, share)
        masks = {name: drawn.micro_batches(share, step, runtime) for name, drawn in self.masks.items()}
        micros = []
        for index, start in enumerate(range(0, share, size)):
            rows = slice(start, start + size)
            beside = {key: batch[key][rows] for key in ("label", "tokenizer_raw") if key in batch}
            micros.append({
                "views": {name: {"raw": raw[rows], **beside} for name, raw in raws.items()},
                "masks": {name: drawn[index] for name, drawn in masks.items()}, "device": runtime.device.type,
                "images": share * runtime.world, "count": len(range(*rows.indices(share))),
                "first": runtime.rank * share, "progress": step / self.steps,
            })  # fmt: skip
        return micros

    def after_backward(self, step: int) -> None:
        for decoder in self.decoders.values():
            if hasattr(decoder, "after_backward"):
                decoder.after_backward(step / self.steps)

    def after_step(self, step: int, world: int) -> None:
        if self.teacher is not None:
            self.teacher.follow(self.encoder, self.decoders, (step - 1) / self.steps)  # step counts from 1 here
        for term in self.terms:
            if term.has_teacher:
                term.tokenizer.after_step(world)

    def note(self) -> None:
        self.notes = Notes()

    def noted(self) -> dict[str, float]:
        notes, self.notes = self.notes, None
        return {} if notes is None else notes.summed().columns()

    def own_parameters(self) -> list[dict[str, Any]]:
        """Of tokenizers that learn while they are used, with their optimizer's settings."""
        learning = {
            id(t.tokenizer): t.tokenizer for t in self.terms if t.has_teacher and list(t.tokenizer.parameters())
        }
        return [{"params": list(t.parameters()), **t.own_optimizer()} for t in learning.values()]

    def kept(self) -> nn.Module:
        """The encoder that leaves the run."""
        return self.encoder if self.teacher is None or self.teacher.config.keep == "student" else self.teacher.encoder


def _union(taps: Any) -> tuple[int, ...]:
    return tuple(sorted({block for some in taps for block in some}))


def make_pretraining(
    recipe: dict[str, Any],
    state: dict[str, dict[str, Tensor]],
    seed: int,
    device: torch.device,
    other: EncoderConfig | None = None,
) -> Pretraining:
    """From the resolved recipe in a run's spec. `state`: the parents' weights by role; `other`: a frozen teacher's encoder."""
    size = recipe["data"]["size"]
    encoder = make_encoder(from_spec(EncoderConfig, recipe["encoder"]), size, seed)
    if "start" in state:
        load_encoder(encoder, state["start"])
    teacher = None
    if other is not None:
        teacher = make_encoder(other, size, seed, drop_path=0.0, masked=False)
        load_encoder(teacher, state["teacher"])
    tokenizers = {}
    for name, term in specs_of(recipe).items():
        tokenizer = make_tokenizer(term["tokenizer"], encoder.grid, seed)
        if tokenizer.trained:
            tokenizer.load_state_dict(state.get(f"tokenizer.{name}") or state["tokenizer"])
        frozen = getattr(tokenizer, "reads", "views") == "views"
        tokenizers[name] = FrozenTokenizer(tokenizer, encoder.grid, device) if frozen else tokenizer
    objective = Pretraining(encoder, recipe, tokenizers, seed, teacher)
    choose_attention(objective)
    return objective


def load_encoder(encoder: Encoder, state: dict[str, Tensor]) -> None:
    """Another run's encoder. A mask token is kept where both have one."""
    own = encoder.state_dict()
    fresh = {key: own[key] for key in own if key == "mask_token" and key not in state}
    encoder.load_state_dict(
        {**fresh, **{key: value for key, value in state.items() if key in own or key != "mask_token"}}
    )
