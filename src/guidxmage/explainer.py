"""The public door: give it a network, ask it about images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import ExportedProgram

from guidxmage.attribution.assemble import Chunk, Origin, assembled
from guidxmage.attribution.attribution import Attribution
from guidxmage.attribution.change_space import Space, space_change
from guidxmage.attribution.depths import Depth, ProgramCut, chosen, depths_of
from guidxmage.attribution.multi_input import attribute_together, is_several, refuse_for_several
from guidxmage.attribution.output_space import Outputs, OutputSpace
from guidxmage.attribution.run import check_rows, chunks, run_chunk
from guidxmage.attribution.targets import Targets, as_labels, refuse_uneven
from guidxmage.attribution.uses import Usable
from guidxmage.engine.capture.as_found import running
from guidxmage.engine.capture.checks import refuse_unusable
from guidxmage.engine.capture.programs import Programs
from guidxmage.engine.capture.user_model import copied_to, name_of, untouched, unwrapped
from guidxmage.engine.cuda.graphs import Graphed, Graphs, refuse_other_than_cuda
from guidxmage.engine.program.footprint import read_budget, row_bytes, rows_within
from guidxmage.engine.program.program import Program
from guidxmage.engine.symbolic import Network
from guidxmage.engine.trail.gates import conventions
from guidxmage.engine.trail.trail import Trail
from guidxmage.errors import UnsupportedOperatorError
from guidxmage.explanation import Explanation, JointExplanation
from guidxmage.inputs.input_space import (
    Batch,
    Images,
    InputSpace,
    dtype_and_device,
    refuse_nonfinite,
)
from guidxmage.inputs.multi_input import Shapes, Wrapped
from guidxmage.inputs.preprocessing import Preprocessing
from guidxmage.inputs.reference import Reference, reference_in_space
from guidxmage.moved import moved_function
from guidxmage.provenance import fingerprint

# Fixed, not what happens to be free: how rows are grouped moves the last digits of a result.
MEMORY_BUDGET = "4 GiB"
# What `Explainer.load` hands on.
_OPTIONS = ("device", "dtype", "batch_rows", "memory_budget", "gates", "cuda_graphs", "output")


class Explainer(Usable):
    """Explains a network pixel by pixel and exactly.

    model: any nn.Module in evaluation mode that maps (batch, channels, height, width) to class
    scores (batch, classes), or a program of torch.export; it is never changed. output: what is
    explained of a network whose output is not one tensor of class scores: a key, an index or a
    function, or one of `guidxmage.outputs`. preprocessing: a `Preprocessing`, a torchvision preset,
    or any callable from a PIL image to a (C, H, W) tensor. With one whose normalisation is known,
    pixels in [0, 1] are explained (`space == "pixels"`), otherwise the network's own input
    (`space == "input"`). labels: class names. device, dtype: explain a copy of the model there; by
    default the model itself where it is. batch_rows: how many images or image-target pairs are run
    at once at most; memory_budget, in bytes or as "4 GiB": how much a run may take beside the
    weights and the results, where one image alone does not take more. gates: how smooth operators
    are made affine, "secant" or "tangent", or a dict with one of them for "activations",
    "normalisation", "products" (docs/concepts.md). cuda_graphs: on a CUDA device, capture what
    `explain` runs as graphs, and replay them for further images (docs/speed.md). Threads may share
    an explainer.
    """

    def __init__(
        self,
        model: nn.Module | ExportedProgram,
        *,
        preprocessing: Preprocessing | Callable[[Image.Image], Tensor] | None = None,
        labels: Sequence[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        name: str | None = None,
        batch_rows: int = 32,
        memory_budget: int | str = MEMORY_BUDGET,
        gates: str | Mapping[str, str] = "secant",
        cuda_graphs: bool = False,
        output: Any = None,
    ) -> None:
        network = unwrapped(model)
        check_rows(batch_rows)
        refuse_unusable(network)
        self.outputs = OutputSpace(output)
        self.model = self.outputs.around(copied_to(network, device, dtype))
        self.name = name or name_of(network)
        self.labels = as_labels(labels)
        self._space = InputSpace(self.model, preprocessing)
        self.batch_rows = batch_rows
        self.memory_budget = read_budget(memory_budget)
        self.gates = conventions(gates)
        self.cuda_graphs = cuda_graphs
        if cuda_graphs:
            refuse_other_than_cuda(dtype_and_device(self.model)[1])
        self.weights_source = ""
        self.code: tuple[Path, ...] = ()  # the user's own files that made the model
        self.check: Callable[[Tensor], None] | None = None  # of the network, on a first image
        self._graphs = Graphs()
        # Not a method of its own: what is explained is freed with the last reference to it.
        self._programs = Programs(self.model, self.gates, self._graphs.clear)
        self._of_inputs: dict[Shapes, Explainer] = {}
        self._lock = threading.Lock()

    @property
    def space(self) -> str:
        """What is explained: "pixels" in [0, 1], or the network's own "input"."""
        return self._space.name

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing where it is known."""
        return self._space.preprocessing

    def fingerprint(self) -> str:
        """SHA-256 of all that its answers depend on, as `fingerprint.of_network` has it."""
        place = [str(one) for one in dtype_and_device(self.model)]
        run = [place, self.gates, self.batch_rows, self.memory_budget, self.cuda_graphs]
        also = [self._space.transform, self.space, self.labels, run, self.outputs.output]
        return fingerprint.of_network(self.model, *also, code=self.code)

    @classmethod
    def load(cls, name: str = "efficientnet_lite0", **options: Any) -> Explainer:
        """An explainer for a network by name; options go to `load_model` and to `Explainer`."""
        from guidxmage.models import load_model

        own = {key: options.pop(key) for key in _OPTIONS if key in options}
        loaded = load_model(name, **options)
        given: dict[str, Any] = {"preprocessing": loaded.preprocessing, "labels": loaded.labels}
        explainer = cls(loaded.model, name=loaded.name, **given, **own)
        explainer.weights_source, explainer.check = loaded.weights, loaded.check
        return explainer

    @overload
    def explain(
        self,
        image: tuple[Tensor, ...],
        target: Any = "top1",
        *,
        reference: Any = None,
        space: Space | None = None,
    ) -> JointExplanation: ...

    @overload
    def explain(
        self,
        image: Images,
        target: Any = "top1",
        *,
        reference: Reference = None,
        space: Space | None = None,
        depth: Any = None,
    ) -> Explanation: ...

    def explain(
        self,
        image: Any,
        target: Any = "top1",
        *,
        reference: Any = None,
        space: Space | None = None,
        depth: Any = None,
    ) -> Explanation | JointExplanation:
        """Explain one image (path, PIL, NumPy H×W×C, tensor C×H×W) or a batch.

        A batch is a sequence of images that come out at one size, or a tensor (B, C, H, W). Tensors
        are in the explained space: pixel values in [0, 1] where the preprocessing is known, else
        network inputs. target: see `choose_targets`. reference: R, from which contributions
        Δ ⊙ (X − R) are counted: "zero" (the default), what the normalisation maps to 0; "black"; a
        number or tensor of the explained space that fits ([B,] C, H, W); or an image. space: by
        default the explainer's own; "photo" explains a single photo at its own size, in its own
        pixels in [0, 1], "input" what the network is given after the normalisation. depth: also put
        the whole score on the picture, the network cut there: "input", the name of a layer, a
        stride in pixels, "default", "all" (one of each stride), or a list of them; see
        `Explanation.whole`.

        A tuple of tensors (B, …) is for a network with that many inputs, see `JointExplanation`;
        reference is then a number or one for each input.

        Every result has an image axis if and only if a batch was given, then a target axis if and
        only if a list of targets was asked for: weights ([B,] [K,] C, H, W), score ([B,] [K]).
        Raises InputError or UnsupportedOperatorError; the model is left untouched in any case.
        """
        if is_several(image):
            return self._explain_together(image, target, reference, space, depth)
        with untouched(self.model):
            change = space_change(space, self._space, image, reference)
            batch = self._space.read(change.image)
            found = self.attribute(batch, target, change.reference, depth)
            return Explanation.of(change.carry(found))

    def depths(self, image: Images | Sequence[int] | None = None) -> list[Depth]:
        """Where the network can be cut, from the image on: call site, grid and stride.

        image: an image or the shape (C, H, W) of one, for a network whose preprocessing does not
        fix it. Also behind any other layer `explain` cuts, whatever crosses there.
        """
        with untouched(self.model):
            example = self._space.example(image)
        return depths_of(self.network(example).program)

    def attribute(
        self, batch: Batch, target: Any = "top1", reference: Reference = None, depth: Any = None
    ) -> Attribution:
        """The numbers of `explain` for images that are read already; called inside `untouched`."""
        R = reference_in_space(self._space, reference, batch.tensor)
        network = self._network_for(batch.tensor)
        part = self.outputs.parts(target, self.model, self.to_input(batch.tensor), batch.batched)
        cuts = [] if depth is None else chosen(network.program, depth)
        parts = [
            self._explain_chunk(network.program, chunk, part(*chunk), batch.batched, cuts)
            for chunk in chunks(batch.tensor, self.rows(network.program))
        ]
        refuse_uneven((len(one.targets), one.targets.several) for one in parts)
        origin = Origin(
            space=self._space.name,
            labels=self.labels,
            model_name=self.name,
            weights_source=self.weights_source,
            preprocessing=self._space.preprocessing,
            output=self.outputs.kind,
        )
        explanation = assembled(parts, batch, R, network, origin)
        self._check_together(network.program, batch.tensor, explanation)
        return explanation

    def logits(self, image: Images) -> Tensor:
        """The network's class scores, ([B,] classes), exactly as it computes them by itself."""
        with running(self.model):
            batch = self._space.read(image)
            logits = torch.cat([self.run(X) for _, X in chunks(batch.tensor, self.batch_rows)])
            return logits if batch.batched else logits[0]

    def read_batch(self, image: Images) -> Batch:
        """An image or batch in the explained space, with its pictures."""
        return self._space.read(image)

    def run(self, X: Tensor) -> Tensor:
        """What the network itself returns for images (B, C, H, W) of the explained space.

        Called inside `running`, which leaves the network as it was; X is copied, since a network
        may write over what it is given.
        """
        logits: Tensor = self.model(self.to_input(X).clone())
        return logits

    def read(self, image: Images) -> Tensor:
        """An image or batch as a tensor in the explained space, ([B,] C, H, W)."""
        batch = self.read_batch(image)
        return batch.tensor if batch.batched else batch.tensor[0]

    def trail(self, image: Images) -> Trail:
        """The execution trail of an image or batch."""
        with untouched(self.model):
            batch = self._space.read(image)
            return self._network_for(batch.tensor).record(batch.tensor)[1]

    def ray(self, a: Images, b: Images, **options: Any) -> Any:
        """Deprecated: call `guidxmage.analysis.ray.trace_ray` with this explainer."""
        trace_ray = moved_function("Explainer.ray", "guidxmage.analysis.ray.trace_ray")
        return trace_ray(self, a, b, **options)

    # --- the run -----------------------------------------------------------------------------

    def _explain_together(
        self, inputs: tuple[Tensor, ...], target: Any, reference: Any, space: Any, depth: Any
    ) -> JointExplanation:
        refuse_for_several(self._space, space, depth)
        dtype, device = dtype_and_device(self.model)
        like = torch.empty(0, dtype=dtype, device=device)
        with untouched(self.model):
            return JointExplanation.of(
                attribute_together(self._attribute_of, inputs, target, reference, like)
            )

    def _attribute_of(self, shapes: Shapes) -> Callable[..., Attribution]:
        return self.of_inputs(shapes).attribute

    def of_inputs(self, shapes: Shapes) -> Explainer:
        """The explainer of the same network for several inputs of these shapes, laid end to end."""
        with self._lock:
            if shapes not in self._of_inputs:
                if len(self._of_inputs) >= 4:
                    self._of_inputs.pop(next(iter(self._of_inputs)))
                own = Explainer(
                    Wrapped(self.model, shapes),
                    labels=self.labels,
                    name=self.name,
                    batch_rows=self.batch_rows,
                    memory_budget=self.memory_budget,
                    gates=self.gates,
                )
                own.weights_source = self.weights_source
                self._of_inputs[shapes] = own
            own = self._of_inputs[shapes]
            own.model.training = self.model.training
            return own

    def rows(self, program: Program) -> int:
        """How many rows of a program are run at once."""
        return rows_within(program, self.memory_budget, self.batch_rows)

    def _explain_chunk(
        self,
        program: Program,
        chunk: tuple[int, Tensor],
        target: Any,
        batched: bool,
        cuts: Sequence[ProgramCut],
    ) -> Chunk:
        first, X = chunk
        given = self._space.to_input(X)
        if not self._programs.serves(program, given):
            raise UnsupportedOperatorError(
                f"this network cannot be explained for this batch: image {first} makes it take "
                "another branch than the first, or it depends on the number of images; explain "
                "its images one by one"
            )

        def choose(logits: Tensor) -> Targets:
            refuse_nonfinite(logits, first)
            return self.outputs.choose(target, self._found(logits, given), batched=batched)

        runner = program if cuts else self._runner(program, given, first)
        run = run_chunk(runner, given, choose, self.rows(program), cuts)
        weights, shift = self._space.to_space(run.pulled.weights)
        return Chunk.of(run, weights, shift)

    def _found(self, logits: Tensor, given: Tensor) -> Outputs:
        """Outputs (B, N) of inputs (B, C, …), and what is known of them."""
        shapes = self.outputs.shapes(self.model, given, logits.shape[1])
        return Outputs(logits, shapes, given.shape[2:], self.labels, self.logits, self._space)

    def targets(self, image: Images) -> list[tuple[str, str]]:
        """What can be asked of an image's outputs: words for `target`, and what they mean."""
        with running(self.model):
            X = self._space.read(image).tensor[:1]
            self.network(X)  # what cannot be explained offers nothing
            return self.outputs.offered(self._found(self.run(X), self.to_input(X)))

    def _runner(self, program: Program, given: Tensor, first: int) -> Program | Graphed:
        """What runs a chunk; what is left of a larger batch is not worth a graph of its own."""
        rest = first > 0 and len(given) < self.rows(program)
        return self._graphs.runner(program, given) if self.cuda_graphs and not rest else program

    def to_input(self, X: Tensor) -> Tensor:
        """Images (B, C, H, W) of the explained space as the network takes them."""
        return self._space.to_input(X)

    def to_space(self, weights: Tensor) -> Tensor:
        """Weights Δ on the network's input (…, C, H, W) as weights in the explained space."""
        return self._space.to_space(weights)[0]

    def _network_for(self, X: Tensor) -> Network:
        """The network as it runs on as many of the images as are run at once."""
        network = self.network(X[:1])
        rows = self.rows(network.program) if network.program.batched else self.batch_rows
        return self.network(X[:rows]) if len(X) > 1 and rows > 1 else network

    def _check_together(self, program: Program, X: Tensor, found: Attribution) -> None:
        """Scores that were found a few images at a time are those of the whole batch, too.

        As far as memory allows: the network alone takes a fifth of what an explanation does.
        """
        too_large = len(X) * row_bytes(program) > 5 * self.memory_budget
        if len(X) <= self.rows(program) or too_large:
            return
        rounding = found.residual_bound.reshape(len(X), -1).amax(1)
        self._programs.check_together(program, self._space.to_input(X), found.logits, rounding)

    # --- captured programs -------------------------------------------------------------------

    def adopt(self, program: Program) -> None:
        """Use a program that is known to be this model's, instead of capturing it again."""
        self._programs.adopt(program)

    def network(self, images: Tensor | Sequence[int]) -> Network:
        """The captured network as it runs on images (B, C, H, W), with the way into its input.

        Images are in the explained space. Their shape alone, without the batch, will do for
        networks that take no branches.
        """
        dtype, device = dtype_and_device(self.model)
        if not isinstance(images, Tensor):
            generator = torch.Generator().manual_seed(0)
            images = torch.rand(2, *images, generator=generator, dtype=dtype).to(device)
        with untouched(self.model):
            given = self._space.to_input(images)
            if self.check is not None:
                self.check(given)
            program = self._programs.of(given)
        return Network(program, self._space.to_input, self.model, self._programs)
