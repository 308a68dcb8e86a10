"""BEiT-2's tokenizer, which learns from a teacher."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mimbench.models.blocks import PlainBlock
from mimbench.models.codes import use_of
from mimbench.models.kmeans import assigned, kmeans
from mimbench.models.positions import sincos
from mimbench.models.ranks import gathered
from mimbench.parts import Batch, Encoder, PatchGrid, TrainedTokenizer
from mimbench.registry import TOKENIZERS

ITERATIONS = 10  # of k-means, from which the codes begin


@TOKENIZERS.register_module("vqkd")
class VQKD(TrainedTokenizer):
    """Codes on the unit sphere from which a decoder restores a teacher's patch features (vector-quantized distillation).

    A ViT of `depth` blocks, without class token, turns patches into unit vectors of `code_dim` numbers; a patch's code is
    the nearest of `vocabulary` codes by cosine. A decoder of `decoder_depth` blocks of the same width restores the teacher's
    normalized output from the codes; the loss is 1 - cosine, and the squared distance of each vector from its code. The
    gradient passes the codes as if they were the vectors. Codes begin as the k-means centers of the first step's vectors,
    which pass unquantized, and follow the mean direction of their vectors, as a moving average over steps with `decay`.
    """

    version = 1
    target = "codes"
    views = ("raw",)
    needs_teacher = True
    begins_with_vectors = True

    codebook: Tensor
    sums: Tensor
    positions: Tensor

    def __init__(
        self,
        vocabulary: int = 8192,
        code_dim: int = 32,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        decoder_depth: int = 3,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        if vocabulary < 2 or code_dim < 2:
            raise ValueError(f"vocabulary and code_dim must be at least 2, not {vocabulary} and {code_dim}.")
        if min(depth, decoder_depth, heads) < 1:
            raise ValueError(
                f"depth, decoder_depth and heads must be at least 1, not {depth}, {decoder_depth} and {heads}."
            )
        if dim % heads or dim % 4:
            raise ValueError(f"dim must be a multiple of 4 and of heads ({heads}), not {dim}.")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and less than 1, not {decay}.")
        self.vocabulary, self.code_dim, self.dim, self.depth, self.heads = vocabulary, code_dim, dim, depth, heads
        self.decoder_depth, self.decay = decoder_depth, decay
        self._teacher: Encoder | None = None
        self._first: list[Tensor] = []  # vectors of the first step, from which the codes begin

    def width(self, grid: PatchGrid) -> int:
        return self.vocabulary

    def build(self, grid: PatchGrid) -> None:
        self.embed = nn.Conv2d(grid.channels, self.dim, grid.patch, stride=grid.patch)
        self.register_buffer("positions", sincos(grid.rows, grid.columns, self.dim, cls=False), persistent=False)
        self.encoder = self._blocks(self.depth)
        self.project = _head(self.dim, self.code_dim)
        self.register_buffer("codebook", F.normalize(torch.randn(self.vocabulary, self.code_dim), dim=-1))
        # of this step's vectors by code, and their number
        self.register_buffer("sums", torch.zeros(self.vocabulary, self.code_dim + 1), persistent=False)

    def learn_from(self, teacher: Encoder) -> None:
        self._teacher = teacher
        self.widen = nn.Linear(self.code_dim, self.dim)
        self.decoder = self._blocks(self.decoder_depth)
        self.restore = _head(self.dim, teacher.dim)

    def _blocks(self, depth: int) -> nn.Sequential:
        return nn.Sequential(
            *(PlainBlock(self.dim, self.heads) for _ in range(depth)), nn.LayerNorm(self.dim, eps=1e-6)
        )

    @torch.no_grad()
    def forward(self, batch: Batch, grid: PatchGrid) -> Tensor:
        return self._nearest(self._vectors(batch))

    def _vectors(self, batch: Batch) -> Tensor:
        """(B, N, code_dim) unit vectors in float32."""
        x = self.embed(2 * batch["raw"] - 1).flatten(2).transpose(1, 2)  # (B, N, dim)
        if x.shape[1] != len(self.positions):
            raise ValueError(
                f"the view raw gives {x.shape[1]} codes per image, and the grid has {len(self.positions)}."
            )
        x = self.encoder(x + self.positions)
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(self.project(x.float()), dim=-1)

    @torch.no_grad()
    def _nearest(self, vectors: Tensor) -> Tensor:
        """(B, N) codes. In float32: half precision changes some."""
        with torch.autocast(vectors.device.type, enabled=False):
            return assigned(vectors.flatten(0, 1), self.codebook, on_sphere=True).view(vectors.shape[:2])

    def _restored(self, vectors: Tensor) -> Tensor:
        """The teacher's features, (B, N, its dimension)."""
        features: Tensor = self.restore(self.decoder(self.widen(vectors) + self.positions))
        return features.float()

    @torch.no_grad()
    def _taught(self, batch: Batch) -> Tensor:
        assert self._teacher is not None, "learn_from() comes first"
        return self._teacher(batch["image"]).patches.float()

    def training_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        vectors = self._vectors(batch)
        if progress == 0.0:
            self._first.append(vectors.detach())
            passed, commitment = vectors, vectors.new_zeros(())
        else:
            codes = self._nearest(vectors)
            quantized = self.codebook[codes]
            self._count(vectors.detach(), codes)
            passed, commitment = vectors + (quantized - vectors).detach(), F.mse_loss(vectors, quantized)
        cosine = F.cosine_similarity(self._restored(passed), self._taught(batch), dim=-1).mean()
        return 1 - cosine + commitment, {"teacher_cosine": cosine.detach()}

    def _count(self, vectors: Tensor, codes: Tensor) -> None:
        rows = torch.cat([vectors, vectors.new_ones(*codes.shape, 1)], dim=-1)
        self.sums.index_add_(0, codes.flatten(), rows.flatten(0, 1))

    def after_step(self, world: int) -> None:
        if self._first:
            self.codebook.copy_(
                kmeans(gathered(torch.cat(self._first).flatten(0, 1)), self.vocabulary, ITERATIONS, on_sphere=True)
            )
            self._first = []
            return
        if world > 1:
            dist.all_reduce(self.sums)
        means = F.normalize(self.sums[:, :-1], dim=-1)
        moved = F.normalize(self.codebook.lerp(means, 1 - self.decay), dim=-1)
        self.codebook.copy_(torch.where(self.sums[:, -1:] > 0, moved, self.codebook))
        self.sums.zero_()

    @torch.no_grad()
    def quality(self, batch: Batch, grid: PatchGrid) -> dict[str, Any]:
        """Usable if the codes restore the teacher better than its mean feature does, and have not collapsed onto few."""
        codes, taught = self._nearest(self._vectors(batch)), self._taught(batch)
        cosine = F.cosine_similarity(self._restored(self.codebook[codes]), taught, dim=-1).mean().item()
        mean = F.normalize(taught, dim=-1).mean((0, 1))  # the direction that is nearest to all
        of_mean = F.cosine_similarity(mean, taught, dim=-1).mean().item()
        use, faults = use_of(codes, self.vocabulary)
        if not cosine > of_mean:
            faults.insert(0, f"its codes restore the teacher no better (cosine {cosine:.4f}) than the teacher's mean "
                             f"feature ({of_mean:.4f})")  # fmt: skip
        return {
            **use,
            "teacher_cosine": cosine,
            "mean_feature_cosine": of_mean,
            "usable": not faults,
            "why": "; ".join(faults) or "restores the teacher better than its mean feature, and the codebook is in use",
        }


def _head(dim: int, width: int) -> nn.Sequential:
    head = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, width))
    for layer in (head[0], head[2]):
        nn.init.trunc_normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return head
