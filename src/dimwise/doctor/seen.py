"""What was seen of a training run: plain numbers that the rules judge. No tensors, no PyTorch.

The watcher (``watch.py``) fills a :class:`Seen`; a rule reads it. So a rule can be tested on observations written by
hand, and a finished run can be judged again from its file.

Words: a *root* is the outermost module of a forward pass (what the user calls: ``model(x)``); a *layer* is a module
inside it that owns parameters directly; a *step* is one ``optimizer.step()`` of any optimizer, counted from 0 over
the whole process. The first ``FULL_STEPS`` steps are watched fully, later ones are sampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dimwise.doctor.finding import Place

FULL_STEPS = 200
"""Steps that are watched one by one; afterwards windows of a few steps are."""


@dataclass(slots=True)
class Event:
    """Something the loop did, in order. ``facts`` by kind:

    forward     who=root. training(bool), grad(bool: gradients enabled), n(batch rows or None), batch(int|None: key in
                ``Seen.batches``), modes=(n_train, n_eval) of its Dropout (p>0) and BatchNorm modules,
                alien_modes=(n_train, n_eval) of those not registered under it.
    loss        who=root whose output it consumed directly (or None). name('cross_entropy', ...), reduction, weighted,
                input_shape, target_shape, grad(bool), value(float|None), training(bool: mode of that root).
    backward    who=root (or None). value(float|None: of the tensor that was differentiated), grad_fn(str: its type
                name), loss(str|None: name of the loss function whose very output it is), reduction(str|None),
                scaled(bool: multiplied or divided after the loss function), retain(bool), alive(int: autograd graphs
                of losses older than 5 steps that still exist), reached(tuple[int,...]: optimizers whose parameters
                received gradients, by key), beyond(int|None: leaves that get gradients and are no network's parameters,
                as the inputs of an attack are; None once there is an optimizer).
    zero_grad   who=optimizer key, or None when a module's zero_grad. had_grads(bool).
    grads_cleared  who=optimizer key: gradients were found gone or zero without zero_grad having been called.
    clip        who=optimizer key or None. method('norm'|'value'), total_norm(float|None), max_norm(float),
                fresh(bool: a backward pass came since the last step of these parameters).
    step        who=optimizer key. grads('none'|'zero'|'some'), stale(bool: they still hold what an earlier step used),
                n_backward(int: backward passes since its last step), grad_norm(float|None), lrs(tuple),
                closure(bool).
    manual_step who=root: parameters changed between two backward passes though no optimizer stepped. stale(bool),
                grad_norm(float|None).
    scheduler   who=scheduler key. lrs(tuple, after), before_first_step(bool: no optimizer step yet).
    wrap        name('DistributedDataParallel'|'DataParallel'), inner(str: class of what is wrapped),
                times(int: how often this very network was wrapped), depth(int: wrappers inside each other).
    """

    kind: str
    step: int
    who: int | None = None
    place: Place | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.facts[name]
        except KeyError:
            raise AttributeError(f"event '{self.kind}' has no fact '{name}'") from None


@dataclass
class LayerSeen:
    """A module that owns parameters directly, inside one root. Lists of (step, value) are oldest first."""

    path: str
    """Inside the root; '' is the root itself."""
    kind: str
    """Class name, as in 'Conv2d'."""
    order: int = 0
    """Position in the forward pass (first call first); larger is nearer to the loss."""
    weight: str = "weight"
    """Name of its largest parameter, whose statistics these are."""
    shape: tuple[int, ...] = ()
    n_params: int = 0
    requires_grad: bool = True
    """Whether any of its own parameters does."""
    calls_train: int = 0
    """Forward calls within watched training passes of the root (gradients on there, followed by backward); calls under
    a no_grad inside such a pass count."""
    calls_eval: int = 0
    optimizers: tuple[int, ...] = ()
    """Keys of the optimizers that hold its parameters."""
    registered: bool = True
    """False for a module that the root calls but does not own (kept in a plain list or dict)."""
    n_grad: int = 0
    """Watched backward passes after which its weight had a gradient."""
    n_grad_zero: int = 0
    """... of which all elements were exactly zero."""
    n_grad_missing: int = 0
    """Watched optimizer steps (of an optimizer that holds it, or any when none does) at which it had none."""
    n_grad_nonfinite: int = 0
    first_nonfinite_step: int | None = None
    changed: bool = False
    """Whether its weight ever differed from what it was at first sight."""
    init: dict[str, Any] = field(default_factory=dict)
    """At first sight: mean, std, absmax, constant(bool: all elements equal), zero(bool), fan_in, fan_out."""
    weight_norm: list[tuple[int, float]] = field(default_factory=list)
    grad_norm: list[tuple[int, float]] = field(default_factory=list)
    update_ratio: list[tuple[int, float]] = field(default_factory=list)
    """‖w after − w before‖ / ‖w before‖ of one step."""
    dead_frac: list[tuple[int, float]] = field(default_factory=list)
    """Fraction of output units (rows of the weight) whose gradient was exactly zero."""
    always_dead_frac: float | None = None
    """Fraction of output units whose gradient was exactly zero at every look (None before the third look)."""
    bias_feeds: str | None = None
    """Kind of the norm that directly consumes its output, when it has a bias."""
    bias_feeds_path: str = ""
    batch_rows: list[int] = field(default_factory=list)
    """For norms with batch statistics, in training mode: values per channel (rows × positions) of recent calls."""
    batch_n: list[int] = field(default_factory=list)
    """For the same calls: rows alone."""
    decay: float = 0.0
    """Weight decay its largest parameter gets from its optimizer."""
    decayed_small: int = 0
    """Parameters of dimension < 2 (biases, norm scales) of its own that decay."""


@dataclass
class ActivationSeen:
    """One place where a squashing or rectifying function is applied inside a root's forward pass in training."""

    path: str
    """Module that was running: the function's own module ('relu1'), or the one whose forward calls it."""
    function: str
    """'relu', 'sigmoid', 'tanh', 'softmax'..."""
    order: int = 0
    """Position in the forward pass, on the same count as ``LayerSeen.order``: a layer with a larger one follows it."""
    is_last: bool = False
    """Whether its output is the root's output."""
    shape: tuple[int, ...] = ()
    zero_frac: list[tuple[int, float]] = field(default_factory=list)
    """relu family: fraction of outputs that are exactly zero."""
    dead_frac: list[tuple[int, float]] = field(default_factory=list)
    """relu family: fraction of units (channels, features) that are zero for the whole batch."""
    saturated_frac: list[tuple[int, float]] = field(default_factory=list)
    """sigmoid, tanh: fraction of outputs within 1 % of an end of the range."""
    place: Place | None = None


@dataclass
class RootSeen:
    """A network as the user calls it."""

    key: int
    kind: str
    n_params: int = 0
    n_trainable: int = 0
    n_mode_modules: int = 0
    """Dropout (p>0) and BatchNorm modules inside."""
    n_train_forwards: int = 0
    """Forward passes that a backward pass followed."""
    n_grad_eval_forwards: int = 0
    """... in evaluation mode, gradients on, output requires grad, no backward pass followed."""
    n_eval_forwards: int = 0
    """Forward passes without gradients."""
    n_eval_in_train_mode: int = 0
    """... of which the root and all its mode-dependent modules were in training mode."""
    first_output_size: float | None = None
    """Root mean square of its output at the first pass with gradients."""
    outputs_meet_loss: bool = False
    """Whether its output went straight into a loss function of PyTorch together with targets."""
    functional_dropout_in_eval: int = 0
    """Calls of F.dropout(training=True) from the user's own forward code while the root was in evaluation mode."""
    unregistered_dropout_in_eval: int = 0
    """The same by Dropout modules that are not registered inside the root."""
    own_noise_in_eval: int = 0
    """Calls, while the root and the module itself were in evaluation mode, of a module of the user's own without
    weights that gave one tensor of the shape it was given and drew random numbers of PyTorch for it."""
    dropout_place: Place | None = None
    layers: dict[str, LayerSeen] = field(default_factory=dict)
    activations: list[ActivationSeen] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    """Paths of modules with parameters that no watched training pass called and no gradient reached."""
    place: Place | None = None
    """Where it was first called."""
    untied: list[tuple[str, str]] = field(default_factory=list)
    """Pairs 'path.parameter' that were one parameter when built and are two now."""
    copied: list[tuple[str, str]] = field(default_factory=list)
    """Pairs 'path.parameter' of an embedding and a linear layer that were equal at first sight, are two parameters that
    both require gradients, and differ now."""
    readied: bool = False
    """Whether the user's own code called train() or zero_grad() of this very network: it is meant to be trained."""
    nan: dict[str, Any] | None = None
    """First NaN or infinity: {"step", "module", "kind", "what": 'output'|'weights'|'input'|'loss'|'gradient'}."""
    first_input_layout: dict[str, Any] | None = None
    """Of the first convolution: {"path", "kind", "shape": input shape, "in_channels"}; for images of 3 or 4 channels
    also mean differences of two values "row_apart" as it reads them, "row_apart_if_last" if the memory held channels
    last, and "unrelated"."""
    update_ratio: list[tuple[int, float]] = field(default_factory=list)
    """Median of its layers' update ratios, per watched step."""
    grad_norm: list[tuple[int, float]] = field(default_factory=list)
    """Norm of the whole gradient as the optimizer used it, per watched step."""


@dataclass
class OptimizerSeen:
    """One optimizer."""

    key: int
    kind: str
    place: Place | None = None
    n_params: int = 0
    """Number of elements."""
    n_tensors: int = 0
    n_steps: int = 0
    roots: tuple[int, ...] = ()
    """Roots whose parameters it holds (as of the last watched step)."""
    n_stale_tensors: int = 0
    """Its parameters that belong to no module that was ever called while it stepped."""
    n_homeless: int = 0
    """... of these, weights of a network that trained while it stepped, and that exists no more."""
    n_without_grad: int = 0
    """Its parameters that require gradients and never had one at a watched step."""
    n_frozen: int = 0
    """Its parameters with requires_grad=False."""
    n_unchanged: int = 0
    """Its parameters that require gradients and never changed over the watched steps."""
    lr_history: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)
    """(step, rates of the groups); a new entry only when they changed."""
    groups: list[dict[str, Any]] = field(default_factory=list)
    """Per group: lr, weight_decay, n_tensors, n_small (dimension < 2: biases and norm scales), momentum."""
    fused_or_scaled: bool = False
    """Stepped through a GradScaler."""


@dataclass
class SchedulerSeen:
    """One learning-rate schedule."""

    key: int
    kind: str
    optimizer: int | None = None
    place: Place | None = None
    step_place: Place | None = None
    n_steps: int = 0
    n_before_optimizer: int = 0
    """Its steps before the optimizer's first."""
    total_steps: int | None = None
    """OneCycleLR's length, CosineAnnealingLR's T_max, LinearLR's total_iters: in calls of its step()."""
    step_size: int | None = None
    gamma: float | None = None
    optimizer_steps: int = 0
    """Steps its optimizer took since it was made."""
    loader_len: int | None = None
    """Batches in an epoch of the training loader in use, when known."""
    base_lr: float | None = None
    """Largest rate that was configured, before the schedule's own factor."""
    written_line: int | None = None
    """Line of the file where it was made that would step it, when it never was: that line was not reached."""
    mode: str = ""
    """'epoch' or 'batch' when it is known what the schedule counts; '' otherwise."""


@dataclass
class BatchesSeen:
    """Inputs and targets of one purpose: those that were trained on, or those of one place of evaluation.

    One function often evaluates the training set and the validation set in turn: where the dataset is known, each
    dataset is a group of its own.
    """

    key: int
    purpose: str
    """'train' or 'eval'."""
    root: int | None = None
    place: Place | None = None
    """Where the forward pass was called."""
    n_batches: int = 0
    n_rows: int = 0
    n_made: int = 0
    """Batches that came with a graph: another network made them."""
    sizes: list[int] = field(default_factory=list)
    """Rows of recent batches."""
    shape: tuple[int, ...] = ()
    """Of one input row."""
    floating: bool = True
    """Whether inputs are numbers, not token numbers."""
    mean: float = 0.0
    std: float = 0.0
    low: float = 0.0
    high: float = 0.0
    """Over all watched inputs of the first layer that has weights (so a normalisation inside the network counts)."""
    first_layer: str = ""
    """Kind of that layer; a norm there makes scale harmless."""
    channel_mean: list[float] = field(default_factory=list)
    channel_std: list[float] = field(default_factory=list)
    n_nan: int = 0
    """Input rows with NaN or infinity."""
    n_constant: int = 0
    """Batches whose elements were all equal, or whose rows were all the same (more than one row)."""
    n_identical: int = 0
    """Batches equal to the one before."""
    label_counts: dict[int, int] = field(default_factory=dict)
    """Class labels that met a classification loss."""
    n_classes: int | None = None
    """Outputs of that loss."""
    label_dims: int = 0
    """Dimensions of the target tensor; 1 is one label a row."""
    classes_per_batch: list[tuple[int, int]] = field(default_factory=list)
    """(distinct labels, rows) of the watched batches in order."""
    batch_labels: list[int] = field(default_factory=list)
    """Most frequent label of the same batches in the same order."""
    label_changes: int = 0
    """Over all watched batches: neighbours within a batch whose label differs."""
    label_pairs: int = 0
    """... out of so many neighbours."""
    weighted_loss: bool = False
    """Whether the loss had class weights or pos_weight."""
    n_varied: int = 0
    """Numbers in a row that hardly ever repeat: of the first rows, at least half had a value of their own there."""
    n_hashed: int = 0
    """Distinct rows whose fingerprints were kept."""
    n_distinct_of: int = 0
    """... out of so many rows."""
    twin_pairs: int = 0
    """Pairs of equal rows within one batch..."""
    row_pairs: int = 0
    """... out of so many pairs: how often two rows are equal by chance."""
    fresh: list[tuple[int, int]] = field(default_factory=list)
    """(rows that never came before, rows) of the last 20 batches: how much of where they come from is still unseen."""
    in_train: int = 0
    """For 'eval': its hashed rows that training had as well, exactly equal."""
    trained_first: int | None = None
    """... of which training had them before this evaluation first saw them (an agent acts first and trains later);
    None when the order is not known."""
    batch_in_train: list[tuple[int, int]] = field(default_factory=list)
    """For 'eval': (hashed rows that training had as well, hashed rows) of recent batches."""
    shared_indices: int = 0
    """For 'eval': rows that its dataset takes from the same places of the same base dataset as training."""
    dataset_rows: int = 0
    """For 'eval': rows of that dataset."""
    table_rows: int = 0
    """Entries of the table that tokens are looked up in first; 0 when they are not."""
    n_tokens: int = 0
    """Different entries that were ever looked up there (counting stops at 8)."""
    knn: dict[str, float] | None = None
    """For 'train': {"accuracy", "chance", "n", "z"} of leave-one-out nearest neighbours on kept rows."""
    base_mutations: int = 0
    """Times that the tensor the inputs are a view of was written to between batches."""
    mutated_inside: int = 0
    """Times that a pass was given the very tensor that the pass before had been given and had changed."""
    mutated_place: Place | None = None
    loss_first: list[float] = field(default_factory=list)
    """First values of the loss function on these (at most 50), in order."""


@dataclass
class LoaderSeen:
    """One DataLoader."""

    key: int
    place: Place | None = None
    dataset: str = ""
    n_rows: int | None = None
    batch_size: int | None = None
    shuffle: bool | None = None
    """Whether its sampler is random; None when it cannot be told."""
    sampler: str = ""
    n_workers: int = 0
    worker_init: bool = False
    n_iterations: int = 0
    n_batches: int = 0
    wait_s: float = 0.0
    """Time the consumer waited for batches while watched."""
    span_s: float = 0.0
    """Wall time between the first and the last watched request."""
    generators: list[str] = field(default_factory=list)
    """Random generators inside the dataset that its ``__getitem__`` draws from ('dataset.rng (numpy Generator)')."""
    alike_in_workers: list[str] = field(default_factory=list)
    """Global generators that ``__getitem__`` draws from and that worker_init_fn left in the same state in all workers
    ('numpy.random')."""
    arrays_changed: list[str] = field(default_factory=list)
    """Arrays or tensors of the dataset whose content differs between two epochs ('dataset.images')."""
    trains: bool = False
    """Whether its batches were trained on."""


@dataclass
class LossSeen:
    """Use of one of PyTorch's loss functions at one line, with gradients."""

    name: str
    place: Place | None = None
    root: int | None = None
    reduction: str = "mean"
    n_calls: int = 0
    n_outputs: int | None = None
    """Columns of the input for classification losses."""
    rows_sum_to_one: int = 0
    """cross_entropy, nll_loss: watched calls whose input rows were probabilities."""
    in_unit_range: int = 0
    """bce_with_logits: watched calls whose input lay within 0 to 1."""
    n_watched: int = 0
    input_fn: str = ""
    """Type of the operation that made the input ('SoftmaxBackward0')."""
    activation_place: Place | None = None
    shapes_differ: int = 0
    """Watched calls whose input and target have different shapes and broadcast to something larger."""
    input_shape: tuple[int, ...] = ()
    target_shape: tuple[int, ...] = ()
    """Of the last watched call, or of the last whose shapes differed."""
    target_low: float | None = None
    target_high: float | None = None
    """Least and greatest target of the watched calls, ignored labels left out."""
    first_value: float | None = None
    """Mean-reduced value of the very first call."""
    chance: float | None = None
    """What that value would be for outputs that know nothing: ln(classes), ln 2."""
    weighted: bool = False


@dataclass
class ProcessSeen:
    """Where this process stands among several."""

    pid: int = 0
    rank: int = 0
    world_size: int = 1
    checksums: list[tuple[int, float]] = field(default_factory=list)
    """(step, sum over the trained parameters) after watched steps."""
    batch_hashes: list[tuple[int, int]] = field(default_factory=list)
    """(step, fingerprint of the training inputs) of watched steps."""
    wrapped: str = ""
    """'DistributedDataParallel' when the trained root is wrapped."""


@dataclass
class Seen:
    """Everything that was seen in one process."""

    events: list[Event] = field(default_factory=list)
    n_steps: int = 0
    """Optimizer steps of the process."""
    n_watched_steps: int = 0
    n_backward: int = 0
    roots: dict[int, RootSeen] = field(default_factory=dict)
    optimizers: dict[int, OptimizerSeen] = field(default_factory=dict)
    schedulers: dict[int, SchedulerSeen] = field(default_factory=dict)
    batches: dict[int, BatchesSeen] = field(default_factory=dict)
    loaders: dict[int, LoaderSeen] = field(default_factory=dict)
    losses: list[LossSeen] = field(default_factory=list)
    loss_history: list[tuple[int, float, int | None]] = field(default_factory=list)
    """(step, value passed to backward, root) of watched backward passes."""
    accuracy_history: list[tuple[int, float]] = field(default_factory=list)
    """(step, share of right answers in the training batch) of watched passes through a classification loss."""
    answers: list[tuple[int, float]] = field(default_factory=list)
    """Of a proof about evaluation: (step, how far answers change when half of the batch is left out)."""
    broadcasts: list[dict[str, Any]] = field(default_factory=list)
    """Handwritten losses whose difference has shape (N, N) while the output has N elements: {"step", "place",
    "output_shape", "difference_shape", "shapes": the two that met (optional), "both_grad": whether both sides came
    from the network, as in a ranking loss (optional)}."""
    hooks_piled: list[dict[str, Any]] = field(default_factory=list)
    """The user's own hooks of which one module or parameter holds several of the same code: {"kind": 'forward hook',
    "on": class name, "n", "place", "since": step at which the first of them was there, "step": of the last}."""
    seeded: bool = False
    """Whether torch was seeded before the first forward pass."""
    n_syncs: int = 0
    """Calls of item(), tolist(), cpu(), numpy() on tensors inside watched training steps..."""
    n_sync_steps: int = 0
    """... during so many steps."""
    sync_places: list[tuple[Place, int]] = field(default_factory=list)
    """Where, and how often; most frequent first."""
    cuda: bool = False
    """Whether the trained parameters live on an accelerator."""
    memory: dict[str, Any] | None = None
    """{"predicted_bytes", "available_bytes", "batch", "root", "place", "fits_batch"} of the first training batch;
    {"small": True} when it was too small to be worth a prediction."""
    error: dict[str, Any] | None = None
    """Exception that ended the script: {"type", "message", "place", "out_of_memory": bool}."""
    process: ProcessSeen = field(default_factory=ProcessSeen)
    frameworks: tuple[str, ...] = ()
    """'lightning', 'accelerate', 'transformers' when they own the loop."""
    seconds: float = 0.0
    """Since PyTorch was imported."""
    watching_s: float = 0.0
    """Of these, spent by the doctor itself."""
    finished: bool = False
    """Whether the script came to its own end."""
    notes: list[str] = field(default_factory=list)
    """What could not be watched, in plain sentences."""

    def of(self, kind: str, who: int | None = None) -> list[Event]:
        """Events of one kind, in order."""
        return [e for e in self.events if e.kind == kind and (who is None or e.who == who)]

    def trained_roots(self) -> Iterator[RootSeen]:
        """Roots with at least one pass that a backward pass followed."""
        return (r for r in self.roots.values() if r.n_train_forwards)

    def train_batches(self) -> Iterator[BatchesSeen]:
        """What was trained on."""
        return (b for b in self.batches.values() if b.purpose == "train")

    def eval_batches(self) -> Iterator[BatchesSeen]:
        """What was evaluated on."""
        return (b for b in self.batches.values() if b.purpose == "eval")
