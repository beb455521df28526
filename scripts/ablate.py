"""Trains the default, each system switched off alone, and variants of each system; reports the differences.

    python -m scripts.ablate --env topology_spawn --seeds 1-10 --steps 150000 --jobs 2 --out runs/ablation

Finished runs are not repeated: the same command continues where it was stopped. With `--confirm-seeds`, the
default and the arms with the largest areas are also trained on further seeds, since what was chosen on some
seeds must be judged on others. `--report-only` trains nothing and reports the runs that exist.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from equipoise.scripts.studies import plots
from equipoise.scripts.studies.experiments import (
    Arm,
    Failure,
    Job,
    add_arguments,
    add_environments,
    add_places,
    chosen,
    integers,
    plan,
    study,
    without_repetition,
)
from equipoise.scripts.studies.parallel import run
from equipoise.scripts.studies.report import LEGEND, failed, markdown_tables, provenance, spans, write_report
from equipoise.scripts.studies.results import THRESHOLD, Result, load, ranked, read_csv, write_csv

BASELINE = "default"
CONFIRMED = 3
"""Number of arms, besides the default, trained on the confirming seeds."""

_REWARD = "trainer.reward_normalization"
_WEIGHTING = "trainer.advantage_weighting"
_ENTROPY = "trainer.entropy_regularization"
_SCALING = "trainer.gradient_scaling"
_WITHOUT_ENTROPY = "trainer.stages=[reward_normalization,advantage_weighting,value_clipping,gradient_scaling]"

_NO_REWARD = (f"{_REWARD}.enable_per_episode_norm=false", f"{_REWARD}.enable_cross_episode_scaling=false")
_NO_WEIGHTING = (f"{_WEIGHTING}.enable_learnable_weights=false",)
_NO_CLIPPING = ("trainer.value_clipping.enable_value_clipping=false",)
_NO_SCALING = (f"{_SCALING}.enable_adaptive_scaling=false",)
_ONE_PASS = ("trainer.batch.update_epochs=1", "trainer.batch.num_minibatches=1")

SYSTEMS = (
    Arm("no_reward_normalization", _NO_REWARD, "both tiers off: the critic sees raw rewards"),
    Arm("no_advantage_weighting", _NO_WEIGHTING, "the environment's weights, for ever"),
    Arm("no_value_clipping", _NO_CLIPPING, "plain squared error"),
    # Its enable key off would leave a constant bonus (the arm `entropy_constant`).
    Arm("no_entropy_regularization", (_WITHOUT_ENTROPY,), "stage left out: no bonus and no guard"),
    Arm("no_gradient_scaling", _NO_SCALING, "base weights 0.7 / 0.3, for ever"),
    Arm("no_batch_training", _ONE_PASS, "one pass over each rollout, in one piece"),
    Arm(
        "plain_ppo",
        (*_NO_REWARD, *_NO_WEIGHTING, *_NO_CLIPPING, _WITHOUT_ENTROPY, *_NO_SCALING),
        "the first five off at once",
    ),
)
"""Each of the six systems switched off alone, by its own keys where they do that."""


def _each(name: str, key: str, values: Sequence[object], change: str) -> list[Arm]:
    """An arm for each value of a key."""
    return [Arm(f"{name}_{value}", (f"{key}={value}",), change.format(value)) for value in values]


def _entropy(start: float, end: float) -> Arm:
    overrides = (f"{_ENTROPY}.entropy_coeff_start={start}", f"{_ENTROPY}.entropy_coeff_end={end}")
    return Arm(f"entropy_{start}", overrides, f"coefficient {start} → {end}")


VARIANTS = (
    *_each(
        "normalization",
        f"{_REWARD}.normalization_method",
        ("scale", "zscore", "minmax", "adaptive"),
        "normalization_method {}",
    ),
    *_each("preserve_task", f"{_REWARD}.preserve_task", ("true", "false"), "preserve_task {}"),
    *_each("objective", f"{_WEIGHTING}.objective", ("alignment", "surrogate"), "weights learn by {}"),
    *_each("weight_rate", f"{_WEIGHTING}.weight_learning_rate", (0.003, 0.01), "weights learn at {}"),
    Arm("no_attention", (f"{_WEIGHTING}.enable_attention_weighting=false",), "weights without attention"),
    *_each("ratio", "trainer.ratio", ("per_decision", "per_type"), "PPO ratio {}"),
    *_each("reduction", "trainer.reduction", ("common", "active"), "divisor {}"),
    *_each("norms", f"{_SCALING}.norm_parameters", ("auto", "all"), "norms over {} parameters"),
    *_each("scale_with_side", f"{_ENTROPY}.scale_with_side", ("true", "false"), "scale_with_side {}"),
    *(_entropy(start, end) for start, end in ((0.1, 0.001), (0.005, 0.0005))),
    Arm("entropy_constant", (f"{_ENTROPY}.enable_adaptive_entropy=false",), "the end coefficient, no guard"),
    *_each("log_std", "policy.log_std_init", (-1.0, -1.5, -2.0), "initial log σ {}"),
    *_each("measure_every", f"{_SCALING}.measure_every", (1, 5), "measure_every {}"),
    *_each("reference", f"{_SCALING}.scaling_reference", ("relative", "absolute"), "scaling_reference {}"),
    *_each("weights", f"{_SCALING}.weight_normalization", ("sum", "none"), "weight_normalization {}"),
    Arm(
        "document",
        (
            f"{_REWARD}.preserve_task=false",
            f"{_WEIGHTING}.enable_learnable_weights=true",
            f"{_WEIGHTING}.enable_attention_weighting=true",
            f"{_WEIGHTING}.objective=surrogate",
            f"{_WEIGHTING}.attention_input=absolute",
            f"{_ENTROPY}.entropy_coeff_start=0.1",
            f"{_ENTROPY}.entropy_coeff_end=0.001",
            f"{_SCALING}.enable_adaptive_scaling=true",
            f"{_SCALING}.scaling_reference=absolute",
        ),
        "the document's configuration: absolute target, entropy 0.1 → 0.001, preserve_task false, "
        "weights learned by the surrogate",
    ),
)
"""Both values of every choice; arms that equal the default are left out."""

ARMS = (Arm(BASELINE, (), "nothing"), *SYSTEMS, *VARIANTS)


@study
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "scripts.ablate", *(arguments or sys.argv[1:])])
    failures: list[Failure] = []
    if options.from_csv:
        results = read_csv(options.report.with_suffix(".csv"))
    else:
        failures = [] if options.report_only else _train(options)
        results = _results(options, [*options.seeds, *options.confirm_seeds])
    if not results:
        print(f"{options.out}: no finished runs to report", file=sys.stderr)
        return 1
    report(options, results, failures, command)
    print(f"report: {options.report}")
    return 1 if failures else 0


def _train(options: argparse.Namespace) -> list[Failure]:
    arms = {}
    for env in options.env:
        arms[env], same = without_repetition(options.arms, env, options.steps)
        for name, other in same.items():
            print(f"{env}: {name} is the same as {other}, and left out")
    jobs = [job for env in options.env for job in _plan(options, arms[env], env, options.seeds)]
    jobs.sort(key=lambda job: job.seed)  # a study that is stopped early still compares all arms
    failures = run(jobs, options.jobs)
    if options.confirm_seeds:
        jobs = []
        for env in options.env:
            best = ranked([r for r in _results(options, options.seeds) if r.env == env])
            chosen = [name for name in best if name != BASELINE][: options.confirm]
            kept = [arm for arm in arms[env] if arm.name in (BASELINE, *chosen)]
            jobs += _plan(options, kept, env, options.confirm_seeds)
        failures += run(jobs, options.jobs)
    return failures


def _plan(options: argparse.Namespace, arms: Sequence[Arm], env: str, seeds: Sequence[int]) -> list[Job]:
    return plan(arms, [env], seeds, options.steps, options.out)


def _results(options: argparse.Namespace, seeds: Sequence[int]) -> list[Result]:
    """All finished runs of these arms and seeds, whatever the defaults were."""
    folders = [
        (options.out / env / arm.name / f"s{seed}", arm.name, env)
        for env in options.env
        for arm in options.arms
        for seed in seeds
    ]
    return [result for folder in folders if (result := load(*folder, options.threshold)) is not None]


def report(
    options: argparse.Namespace, results: Sequence[Result], failures: Sequence[Failure], command: str
) -> None:
    """Write Markdown to `options.report`, the raw numbers and the pictures beside it."""
    path: Path = options.report
    changes = {arm.name: arm.change for arm in options.arms}
    parts: dict[str, list[Result]] = {}
    pictures: dict[str, str] = {}
    for env in options.env:
        for kind, seeds in (("", options.seeds), ("confirming ", options.confirm_seeds)):
            part = [run for run in results if run.env == env and run.seed in seeds]
            if not part:
                continue
            title = f"{env}, {kind}seeds {spans(seeds)}"
            stem = f"{path.stem}_{env}" + ("_confirm" if kind else "")
            plots.save(plots.intervals(part, [env], BASELINE), path.with_name(f"{stem}_intervals"))
            if not options.from_csv:  # which has no curves
                plots.save(plots.against_baseline(part, env, BASELINE), path.with_name(f"{stem}_curves"))
            parts[title] = part
            pictures[title] = "".join(
                f"\n![{env}, {kind}{name}]({stem}_{name}.png)\n" for name in ("intervals", "curves")
            )
    tables = markdown_tables(parts, BASELINE, changes, options.threshold)
    body = LEGEND + "".join(f"\n## {title}\n\n{tables[title]}{pictures[title]}" for title in parts)
    body += f"\nEvery run: [{path.stem}.csv]({path.stem}.csv)\n{failed(failures)}"
    write_report(path, "Ablation", None if options.from_csv else provenance(command, results), body)
    if not options.from_csv:
        write_csv(path.with_suffix(".csv"), results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, seeds="1-10")
    add_environments(parser)
    add_places(parser, "runs/ablation", "docs/results/ablation.md")
    parser.add_argument("--confirm-seeds", type=integers, default=[], help="to confirm on, as 11-20")
    parser.add_argument(
        "--confirm", type=int, default=CONFIRMED, help=f"arms to confirm besides the default ({CONFIRMED})"
    )
    parser.add_argument("--arms", type=_arms, default=ARMS, help="some arms, as a,b (default: all)")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help=f"of `steps to` ({THRESHOLD:g})")
    parser.epilog = "arms:\n" + "\n".join(f"  {arm.name:28} {arm.change}" for arm in ARMS)
    return parser


def _arms(text: str) -> list[Arm]:
    known = {arm.name: arm for arm in ARMS}
    return [known[name] for name in dict.fromkeys([BASELINE, *chosen(text, known, "arm")])]


if __name__ == "__main__":
    sys.exit(main())
