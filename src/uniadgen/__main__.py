"""The command line: demo, generate, check, score, pbs, fig2d, train, merge, evaluate, data, bench, convert, world."""

import functools
import json
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from uniadgen import files
from uniadgen.config import Config, DatasetConfig, PrepareConfig, override, parse_overrides
from uniadgen.recipes import PBS_RECIPES, recipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Personalised advertising text and pictures from one autoregressive model.\n\n"
    "Start with `uniadgen demo`, then try your own product with `uniadgen generate --help`.",
)
world_app = typer.Typer(no_args_is_help=True, help="AdWorld, the synthetic shop whose right answers are known.")
app.add_typer(world_app, name="world")
bench_app = typer.Typer(no_args_is_help=True, help="How fast this machine is, and how often the checks are right.")
app.add_typer(bench_app, name="bench")
convert_app = typer.Typer(no_args_is_help=True, help="Checkpoints of others become folders that we can build on.")
app.add_typer(convert_app, name="convert")
data_app = typer.Typer(
    no_args_is_help=True, help="A shop's clicks become a dataset as PAd1M is, and a store to train on."
)
app.add_typer(data_app, name="data")

# The module that is missing -> the extra that brings it.
EXTRAS = {"duckdb": "data", "pyarrow": "data", "fsspec": "data", "aiohttp": "data", "matplotlib": "data", "ray": "ray"}
EXTRAS |= {"accelerate": "train", "peft": "train"}


def plainly(command: Callable[..., None]) -> Callable[..., None]:
    """Bad input, a full disk, a loss that is no number: one clear line and exit code 2, never a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError, FloatingPointError) as error:
            name = (
                f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
            )
            print(f"uniadgen: {' '.join(name.split())}", file=sys.stderr)
            raise typer.Exit(2) from None
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            install = f"pip install 'uniadgen[{EXTRAS[error.name]}]'"
            print(f"uniadgen: {error.name} is not installed, expected for this command: {install}", file=sys.stderr)
            raise typer.Exit(2) from None

    return wrapped


Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change any knob of the recipe, e.g. --set train.steps=50. Repeatable."),
]
Parts = Annotated[
    str | None, typer.Option(help="`nano`, or a folder of weights: its tokenizer and VQ are taken, not trained.")
]
Out = Annotated[Path, typer.Option(help="Where to write. PNG, WebP or JPEG.")]
Threads = Annotated[
    int, typer.Option(min=0, max=1024, help="Threads; 0: one for each core, one alone where the machine is busy.")
]

Precision = Annotated[
    str, typer.Option(help="model: as the weights are; int8 on a CPU with VNNI, fp8 on a GPU: faster, and other ads.")
]


MetricWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights", help="METRIC=FOLDER, where its weights are, or an id of the Hugging Face Hub. Repeatable."
    ),
]


def use_threads(wanted: int) -> None:
    """Threads that wait for one another collapse where others take the cores away: then one is faster."""
    import torch

    busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    if wanted or busy:
        torch.set_num_threads(wanted or 1)


@app.command()
@plainly
def generate(
    product: Annotated[Path, typer.Option(help="The product, cut out on a transparent background (PNG or WebP).")],
    description: Annotated[str, typer.Option(help="One sentence that says what it is.")],
    point: Annotated[
        list[str] | None, typer.Option(help="A selling point; repeat for each. The text uses nothing else.")
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(help='What the shopper clicked: a JSON list of {"picture": path, "text": title}, oldest first.'),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="The same request and seed give the same ad.")] = 0,
    num_images: Annotated[int, typer.Option(min=1, max=64, help="How many ads, with seeds seed, seed + 1, ...")] = 1,
    guidance: Annotated[
        float | None, typer.Option(min=1, help="How strongly the history guides; 1 is off. Default: the model's own.")
    ] = None,
    model: Annotated[str, typer.Option(help="`nano`, or a folder of weights.")] = "nano",
    out: Out = Path("ad.png"),
    threads: Threads = 0,
    precision: Precision = "model",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="How it is sampled, e.g. --set generate.guidance_until=0.5. Repeatable."),
    ] = None,
) -> None:
    """Make an ad for one product and one shopper.

    Writes the picture to OUT, and text, seed and settings beside it as OUT with the ending .json.

    Example: uniadgen generate --product mug.png --description "A red mug for the kitchen." --point "dishwasher safe"
    --point "gift box included" --history history.json --seed 7 --out ad.png
    """
    files.check_output(out, keep=(product, history))
    wanted = files.read_product(product, description, point or [])
    clicks = files.read_history(history) if history else ()
    from uniadgen.pipeline import AdGenerator  # torch takes seconds to import; --help and bad input should not wait
    from uniadgen.train.log import progress_bar

    use_threads(threads)
    generator = AdGenerator.from_pretrained(model, precision=precision)
    if settings:
        generator = generator.with_settings(parse_overrides(settings))
    for number in range(num_images):
        path = out if num_images == 1 else out.with_name(f"{out.stem}-{seed + number}{out.suffix}")
        ad = None
        with progress_bar("ad", 1) as bar:
            for update in generator.stream(wanted, clicks, seed=seed + number, guidance=guidance):
                bar.advance(update.text, by=int(update.done))
                ad = update.ad
        assert ad is not None, "the last update carries the ad"
        files.save_picture(path, ad.picture)
        record = {"text": ad.text, **ad.record}
        files.write_whole(
            path.with_suffix(".json"),
            lambda p, r=record: p.write_text(json.dumps(r, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"),
        )
        print(f"{ad.text}\n{path}")


@app.command()
@plainly
def train(
    name: Annotated[
        str, typer.Argument(help="The recipe: nano, pbs from scratch; paper_1b, paper_7b, paper_pbs on a base.")
    ],
    out: Annotated[Path | None, typer.Option(help="The run's folder; a run that was stopped goes on there.")] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="Janus-Pro, in Hugging Face's layout; for PBS a checkpoint of MoCo v3; for recipes of nano's size "
            "weights to begin from."
        ),
    ] = None,
    dinov2: Annotated[Path | None, typer.Option(help="DINOv2-small, in Hugging Face's layout.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A store of examples: `uniadgen data encode`; for PBS a folder of pictures per product."),
    ] = None,
    parts: Parts = None,
    settings: Settings = None,
) -> None:
    """Train a recipe. Stop it at any time and run it again: it goes on to the bit.

    nano is trained from scratch: AdWorld is rendered, then the VQ is trained, then the model. The paper's recipes
    fine-tune Janus-Pro, on one GPU or on several: torchrun --nproc-per-node 8 -m uniadgen train paper_7b ...
    `--set train.dry_run=true` only says what would be trained and how much memory it takes. pbs and paper_pbs train the
    metric, on AdWorld or on --data: see docs/pbs.md.

    Example: uniadgen train nano --out runs/nano --set train.steps=500

    Example: uniadgen train paper_7b --base Janus-Pro-7B --dinov2 dinov2-small --data store --out runs/own
    """
    changes = parse_overrides(settings or [])
    if name in PBS_RECIPES:
        from uniadgen.metrics.learn import train_pbs

        metric = override(PBS_RECIPES[name](), changes)
        print(f"weights: {train_pbs(metric, out or Path('runs') / name, base, data)}")
        return
    config = override(recipe(name), changes)
    if config.train.dry_run:
        from uniadgen.train.memory import report

        Console().print(report(config))
    elif config.model.lora_rank == 0:
        from uniadgen.train.nano import Given, train_recipe

        given = Given(parts=weights_in(parts), base=None if base is None else weights_in(str(base)))
        print(f"weights: {train_recipe(config, out or Path('runs') / name, given)}")
    elif base is None or dinov2 is None or data is None:
        raise ValueError(f"recipe {name} fine-tunes a base, expected --base, --dinov2 and --data")
    else:
        from uniadgen.train.finetune import finetune

        adapter = finetune(config, base, dinov2, data, out or Path("runs") / name)
        if os.environ.get("RANK", "0") == "0":  # one of many processes says it
            print(f"adapter: {adapter}")


@app.command()
@plainly
def merge(
    adapter: Annotated[Path, typer.Argument(help="The folder `adapter` of a run.")],
    base: Annotated[Path, typer.Option(help="The base that it was trained on.")],
    out: Annotated[Path, typer.Option(help="The folder of weights to write.")],
) -> None:
    """Merge what was fine-tuned into its base: one folder of weights, for `generate`, `evaluate` and everything else.

    Example: uniadgen merge runs/own/adapter --base Janus-Pro-7B --out own-7b
    """
    from uniadgen.train.finetune import merge_into_base

    merge_into_base(adapter, base, out)
    print(out)


@data_app.command()
@plainly
def encode(
    source: Annotated[
        Path, typer.Argument(help="A dataset's folder, JSON lines of examples (.jsonl), or PAd1M's JSON (.json).")
    ],
    out: Annotated[Path, typer.Option(help="The store's folder; a run that was stopped goes on there.")],
    base: Annotated[
        Path | None, typer.Option(help="Whose VQ codes the pictures: Janus-Pro in Hugging Face's layout.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Instead of --base: `nano`, or a folder of weights; its recipe is taken, too."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="The folder that pictures' paths are relative to. Default: that of the file.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of a dataset: train, validation or test.")] = "train",
    name: Annotated[str, typer.Option("--recipe", help="The recipe that will be trained.")] = "paper_7b",
    at_once: Annotated[int, typer.Option(min=1, help="Pictures coded together; a kill loses at most these.")] = 32,
    keep_pictures: Annotated[
        bool, typer.Option("--keep-pictures", help="Also keep every picture as JPEG, in the sizes that are coded.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete codes that another VQ or another size made in the folder.")
    ] = False,
    settings: Settings = None,
) -> None:
    """Code every picture once, so that training runs neither the VQ nor SigLIP.

    A line of JSON lines: {"product": {"cutout": ..., "description": ..., "selling_points": [...]},
    "clicks": [{"picture": ..., "text": ...}, ...], "target": {"picture": ..., "text": ...}}

    Pictures that cannot be used are listed in dropped.parquet with the samples that go with them.

    Example: uniadgen data encode clicks.jsonl --base Janus-Pro-7B --out store

    Example: uniadgen data encode data/small --pictures logs/small --base Janus-Pro-7B --out store
    """
    if (base is None) == (weights is None):
        raise ValueError("expected the VQ that codes the pictures: either --base or --weights")
    own = weights_in(weights)
    folder = base or own
    assert folder is not None, "one of the two is there"
    config = recipe(name) if own is None else Config.load(own / "recipe.json")
    config = override(config, parse_overrides(settings or []))
    from uniadgen.data.encode import Making, encode_store
    from uniadgen.data.listing import read_listing

    listing = read_listing(source, pictures, split)
    from uniadgen.model import vq
    from uniadgen.train.finetune import encoder

    making = Making(config, encoder(config, folder), vq.fingerprint(folder), at_once, keep_pictures, replace)
    counts = encode_store(out, listing, making, _rows)["counts"]
    print(f"{counts['samples']:,} of {listing.num_samples:,} samples, {counts['clicks']:,} clicked pictures: {out}")


@data_app.command("verify")
@plainly
def verify_store(store: Annotated[Path, typer.Argument(help="A store: `uniadgen data encode`.")]) -> None:
    """Read every page of a store and compare its checksum; a damaged file is named."""
    from uniadgen.data.store import verify

    print(f"{verify(store):,} bytes are as they were written: {store}")


@app.command()
@plainly
def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="`nano`, a folder of weights, or NAME=FOLDER. Several.")
    ],
    baselines: Annotated[
        str | None,
        typer.Option(
            help="With commas between: no_history, unbound, image_only, text_only of each model; truth, copy, "
            "retrieve, llm. Default: no_history,unbound,truth; on one's own data no_history. none: no baseline."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="With commas between: style, words, pasted, text, text_strict, text_english, pbs, checks_picture, "
            "checks_text, model; product; clip, dinov3, mocov3, pickscore, imagereward, ase with --weights. Default: "
            "the first ten but text_strict and text_english, where the right answers are known."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Requests of one's own: a dataset's folder, JSON lines (.jsonl) or PAd1M's JSON (.json)."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="The folder that their pictures' paths are relative to. Default: the file's.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of a dataset: train, validation or test.")] = "test",
    requests: Annotated[int, typer.Option(min=10, help="How many requests, of a shopper each in AdWorld.")] = 200,
    seed: Annotated[int, typer.Option(min=0, max=2**30, help="First seed; in AdWorld also the first shopper.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Ads of each request, with different seeds.")] = 1,
    reference: Annotated[
        str, typer.Option(help="The generator that all others are tested against. Default: the first model.")
    ] = "",
    picture: Annotated[
        str, typer.Option(help="What picture metrics look at: pasted (the ad) or painted (the model's own).")
    ] = "pasted",
    prompt: Annotated[
        str,
        typer.Option(help="What pickscore and imagereward compare a picture with: description, points, text, target."),
    ] = "description",
    weights: MetricWeights = None,
    out: Annotated[Path, typer.Option(help="The folder for report and ads; a run that was stopped goes on.")] = Path(
        "evaluation"
    ),
    threads: Threads = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="The server of llm: stages.llm_url=..., stages.llm_model=... Repeatable."),
    ] = None,
) -> None:
    """Compare generators on the same requests: AdWorld's held-out shoppers, or the samples of one's own data.

    Prints a table with 95 % intervals (whole shoppers resampled) and paired tests against one reference; writes it as
    JSON, CSV and Markdown with every single value and the ads themselves. docs/evaluate.md says what each line means.

    Example: uniadgen evaluate nano --baselines no_history,copy,retrieve --requests 100 --out comparison
    """
    files.check_folder(out)
    stages = override(PrepareConfig(), parse_overrides(settings or [])).stages
    from uniadgen.evaluate.harness import Seeds
    from uniadgen.evaluate.report import table
    from uniadgen.evaluate.run import Plan
    from uniadgen.evaluate.run import evaluate as carry_out

    use_threads(threads)
    named = {"baselines": names_in(baselines), "metrics": names_in(metrics)}
    plan = Plan(
        models=models,
        **{name: value for name, value in named.items() if value is not None},
        requests=requests,
        seeds=Seeds(seed, seeds),
        reference=reference,
        data=data,
        pictures=pictures,
        split=split,
        picture=picture,
        prompt=prompt,
        weights=folders_in(weights),
        stages=stages,
    )
    report = carry_out(plan, out)
    Console().print(table(report))
    print(out)


@app.command()
@plainly
def reproduce(
    what: Annotated[
        list[str], typer.Argument(metavar="TABLE...", help="table1, table2, table3, table4 or fig2d of the paper.")
    ],
    out: Annotated[
        Path, typer.Option(help="The folder for models, ads and tables; a run that was stopped goes on.")
    ] = (Path("reproduction")),
    stock: Annotated[
        Path | None,
        typer.Option(
            help="A run of nano whose pictures, tokenizer and VQ all models take. Default: made once, in OUT."
        ),
    ] = None,
    parts: Parts = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Weights that every row begins from, with their tokenizer and VQ, as the paper's rows begin from "
            "Janus-Pro: `uniadgen train nano_baseline` makes some. Default: every row begins from random weights."
        ),
    ] = None,
    at_once: Annotated[
        int, typer.Option(min=1, max=64, help="Models trained side by side, as a GPU that nano does not fill can.")
    ] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of every model's training; the table says so. Default: its recipe's.")
    ] = None,
    requests: Annotated[int, typer.Option(min=10, help="Held-out shoppers, one request each.")] = 200,
    seed: Annotated[int, typer.Option(min=0, max=2**30, help="First shopper and first seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Ads of each request, with different seeds.")] = 1,
    weights: MetricWeights = None,
    settings: Settings = None,
) -> None:
    """Make a table of the paper again on AdWorld: train nano's size of every row, measure them, print both numbers.

    table2 is the ablation (Baseline, w/ history, w/ PSS, Ours), table3 the history's length, table4 the sampling of
    clicks, table1 pictures alone, texts alone and both without any history. Tables share models they have in common.

    Example: uniadgen reproduce table2 --stock runs/nano --steps 500 --requests 100 --out reproduction
    """
    files.check_folder(out)
    if "fig2d" in what:
        fig2d(out)
    tables = [name for name in dict.fromkeys(what) if name != "fig2d"]
    if not tables:
        return
    from uniadgen.evaluate.harness import Seeds
    from uniadgen.evaluate.reproduce import Reproduction
    from uniadgen.evaluate.reproduce import reproduce as make_again

    changed = parse_overrides(settings or [])
    how = Reproduction(
        stock=stock,
        parts=weights_in(parts),
        base=weights_in(base),
        at_once=at_once,
        steps=steps,
        requests=requests,
        seeds=Seeds(seed, seeds),
        weights=folders_in(weights),
        settings=changed,
    )
    for name, made in zip(tables, make_again(tables, out, how), strict=True):
        Console().print(made.table())
        print(out / f"{name}.md")


def weights_in(name: str | None) -> Path | None:
    """The folder of weights of that name."""
    from uniadgen.model.weights import find

    return None if name is None else find(name)


def folders_in(weights: list[str] | None) -> dict[str, str]:
    """The folders of metrics, by their names."""
    if wrong := [folder for folder in weights or [] if "=" not in folder]:
        raise ValueError(f"got --weights {wrong[0]}, expected METRIC=FOLDER")
    return dict(folder.split("=", 1) for folder in weights or [])


def names_in(text: str | None) -> list[str] | None:
    """The names of a list with commas between; none of them where it says `none`."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]


@app.command()
@plainly
def losses(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; the others are compared with the first.")],
    last: Annotated[int, typer.Option(min=10, help="Steps that count, the last ones.")] = 300,
) -> None:
    """Compare runs of recipes by their losses on shoppers never seen before, step by step.

    Example: uniadgen losses runs/nano runs/nano_pss runs/nano_baseline
    """
    from uniadgen.evaluate.losses import compare, table

    Console().print(table(compare(runs, last)))


@app.command()
@plainly
def demo(
    out: Annotated[Path, typer.Option(help="The folder for demo.png and demo.html.")] = Path(),
    model: Annotated[str, typer.Option(help="`nano`, or a folder of weights.")] = "nano",
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Another seed, other ads.")] = 7,
    threads: Threads = 0,
) -> None:
    """Make ads for four sample shoppers, with and without their history, and show them on one page."""
    if not out.is_dir():
        raise ValueError(f"{out}: no such folder: create it first")
    from uniadgen.demo import make_demo

    use_threads(threads)
    for path in make_demo(model, out, seed):
        print(path)


@app.command()
@plainly
def check(
    picture: Annotated[
        Path | None, typer.Argument(help="The ad's picture; leave it out to check a text alone.")
    ] = None,
    product: Annotated[Path | None, typer.Option(help="The product, cut out on a transparent background.")] = None,
    text: Annotated[str | None, typer.Option(help="The ad's text.")] = None,
    point: Annotated[list[str] | None, typer.Option(help="A selling point of the product; repeat for each.")] = None,
    description: Annotated[str, typer.Option(help="The product's description; what it says is backed, too.")] = "",
    rules: Annotated[
        str, typer.Option(help="Rule packs with commas between: cn-ads, generic-en, or paths of YAML files; or none.")
    ] = "cn-ads,generic-en",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check an ad: is the product kept, is every claim backed, is wording restricted? Exit code 1 where something is.

    A pass says that nothing of a known kind was found. Rule packs are not legal advice.

    Example: uniadgen check ad.png --product mug.png --text "Kitchen mug: dishwasher safe" --point "kitchen mug"
    --point "dishwasher safe" --rules generic-en
    """
    from uniadgen.data.cutout import read_picture
    from uniadgen.metrics.check import check as check_ad
    from uniadgen.metrics.check import table

    report = check_ad(
        None if picture is None else read_picture(picture, "RGB"),
        None if product is None else read_picture(product, "RGBA"),
        text,
        point or [],
        description,
        names_in(rules) or [],
    )
    if as_json:
        print(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        Console().print(table(report))
    if not report.passed:
        raise typer.Exit(1)


@app.command()
@plainly
def score(
    pictures: Annotated[Path, typer.Argument(help="A folder of pictures: PNG, WebP, JPEG.")],
    metric: Annotated[list[str], typer.Option(help="clip, dinov3, mocov3, pickscore, imagereward or ase. Repeatable.")],
    weights: MetricWeights = None,
    beside: Annotated[
        Path | None, typer.Option(help="For clip, dinov3, mocov3: a folder with the same names, to compare with.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help='For pickscore, imagereward: lines of {"picture": "1.png", "prompt": "A red mug."}'),
    ] = None,
    out: Annotated[Path, typer.Option(help="The CSV to write: a row for each picture.")] = Path("scores.csv"),
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that a model sees at once.")] = 16,
    threads: Threads = 0,
) -> None:
    """Score pictures with published models: likeness to others, fit to a prompt, beauty.

    Nothing is downloaded unasked: without weights a metric is left out, and a line says which files go where; the
    others run, and the exit code is 1. What the scores mean, and their traps: docs/picture-metrics.md.

    Example: uniadgen score ads --metric clip --beside clicked --weights clip=clip-vit-large-patch14 --out scores.csv

    Example: uniadgen score ads --metric pickscore --metric ase --prompts prompts.jsonl
    --weights pickscore=yuvalkirstain/PickScore_v1 --weights ase=ase
    """
    files.check_output(out, (".csv",))
    folders = folders_in(weights)
    from uniadgen.metrics.weights import load_metrics, source_of

    needs = {name: source_of(name).needs for name in metric}
    for need, option, given, what in (
        ("counterparts", "--beside", beside, "the folder of pictures to compare with"),
        ("prompts", "--prompts", prompts, "what each picture should show"),
    ):
        if need in needs.values() and given is None:
            names = ", ".join(name for name, needed in needs.items() if needed == need)
            raise ValueError(f"{names}: got no {option}, expected {what}")
    from uniadgen.metrics import scores
    from uniadgen.train.log import progress_bar

    use_threads(threads)
    work = scores.read_work(pictures, beside, prompts)
    loaded = load_metrics(needs, folders, batch_size=batch_size)
    for line in loaded.missing.values():
        print(f"uniadgen: {line}", file=sys.stderr)
    columns = {}
    for name, loaded_metric in loaded.metrics.items():
        with progress_bar(name, len(work.pictures) * (1 + (needs[name] == "counterparts"))) as bar:
            columns[name] = scores.run(loaded_metric, work, bar.advance)
    if columns:
        files.write_whole(out, lambda path: scores.write_csv(path, work, columns))
        Console().print(scores.table(columns))
        print(out)
    if loaded.missing:
        raise typer.Exit(1)


Metric = Annotated[str, typer.Option("--model", help="`pbs`, or a folder of PBS weights.")]


@app.command()
@plainly
def pbs(
    a: Annotated[Path, typer.Argument(help="A folder of pictures.")],
    b: Annotated[Path, typer.Argument(help="Another one, with pictures of the same names.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write, with a line for every name.")] = Path("pbs.csv"),
    model: Metric = "pbs",
    threads: Threads = 0,
) -> None:
    """How alike are the backgrounds? PBS of two folders of pictures, paired by name, and its mean.

    Names that only one folder has and pictures that cannot be read are listed, here and in the table; they take no
    part in the mean. What is transparent is seen on white. The shipped network was trained on AdWorld and is for it:
    see docs/pbs.md.

    Example: uniadgen pbs made true --out pbs.csv --model pbs-official
    """
    files.check_output(out, (".csv",))
    from uniadgen.metrics.pairs import compare, pair_up
    from uniadgen.metrics.pbs import PBS

    pairs = pair_up(a, b)
    use_threads(threads)
    network = PBS.from_pretrained(model)
    with _rows("pairs", len(pairs), "pairs") as bar:
        report = compare(pairs, out, network, lambda number: bar.advance(by=number))
    print("\n".join((*report.lines(), str(out))))


@app.command()
@plainly
def fig2d(
    out: Annotated[Path, typer.Option(help="The folder for fig2d.json, .csv, .png and fig2d-pictures.png.")],
    products: Annotated[int, typer.Option(min=2, help="Held-out products of AdWorld, six pictures each.")] = 288,
    model: Metric = "pbs",
    weights: MetricWeights = None,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Pixels of each picture.")] = 144,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Another seed, other scenes and another order.")] = 0,
    threads: Threads = 0,
) -> None:
    """Fig. 2(d) on AdWorld: does a metric tell the same background from another one? PBS beside plain controls.

    clip, dinov3 and mocov3 are also measured where their weights are given.

    Example: uniadgen fig2d --out runs/fig2d --products 48 --weights clip=clip-vit-large-patch14
    """
    folders = folders_in(weights)
    from uniadgen.metrics import fig2d as figure
    from uniadgen.metrics.backgrounds import probes
    from uniadgen.metrics.pbs import PBS
    from uniadgen.metrics.trunk import Trunk
    from uniadgen.metrics.weights import load_features
    from uniadgen.train.log import progress_bar

    world = recipe("nano").world
    assert world is not None, "nano is trained on AdWorld"
    use_threads(threads)
    network = PBS.from_pretrained(model)
    measured = figure.metrics(network, Trunk.untrained(network.config, seed), load_features(folders))
    out.mkdir(parents=True, exist_ok=True)
    with progress_bar("products", products) as bar:
        shown = figure.Watched(probes(world, products, size, seed), bar.advance)
        found = figure.study(shown, measured, size, seed)
    figure.save(found, shown.first, out)
    Console().print(figure.table(found))
    print(out)


@world_app.command()
@plainly
def sheet(
    out: Annotated[Path, typer.Argument(help="The picture to write.")],
    rows: Annotated[int, typer.Option(min=1, max=40, help="Products.")] = 6,
    columns: Annotated[int, typer.Option(min=1, max=40, help="Scenes.")] = 8,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels of each picture.")] = 144,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other products and scenes.")] = 0,
) -> None:
    """Draw a contact sheet: products by rows, scenes by columns."""
    files.check_output(out)
    from uniadgen.world.sheet import contact_sheet

    files.save_picture(out, contact_sheet(rows, columns, size, seed))
    print(out)


@bench_app.command("train")
@plainly
def bench_train(
    name: Annotated[str, typer.Option("--recipe", help="nano, paper_1b or paper_7b.")] = "nano",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each way that are timed.")] = 5,
    settings: Settings = None,
) -> None:
    """Time training steps on random weights and made-up rows in the recipe's true layout, beside a plain loop.

    Example: uniadgen bench train --recipe paper_1b --set train.rows_at_once=4
    """
    config = override(recipe(name), parse_overrides(settings or []))
    from uniadgen.train.bench import bench_training, table

    Console().print(table(config, bench_training(config, steps)))


@bench_app.command("store")
@plainly
def bench_store(
    pictures: Annotated[int, typer.Option(min=100, help="Clicked pictures of the store that is made up.")] = 200_000,
    seconds: Annotated[float, typer.Option(min=0.01, help="Of every measurement.")] = 5.0,
    folder: Annotated[Path | None, typer.Option(help="Where the store is made, and stays. Default: nowhere.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this JSON file.")] = None,
    settings: Settings = None,
) -> None:
    """Time how fast nano's samples of ten clicks come out of a store: from disk and memory, in 1 and 2 processes.

    "samples" are what the store holds of each (codes, words, the cut-out's PNG), "rows" what the model takes: words as
    token ids in their layout, the cut-out decoded. The column "of CPU" tells what a busy machine would do were it idle.

    Example: uniadgen bench store --pictures 200000 --out store.json
    """
    if out is not None:
        files.check_output(out, (".json",))
    config = override(recipe("nano"), {"data.num_clicks": 10} | parse_overrides(settings or []))
    import tempfile

    from uniadgen.train.storebench import bench_store, make_store, report, table

    with tempfile.TemporaryDirectory() as temporary:
        where = folder or Path(temporary)
        if not (where / "store.json").is_file():
            where.mkdir(parents=True, exist_ok=True)
            make_store(where, config, pictures, _rows)
        found = report(where, config, bench_store(where, config, seconds))
    if out is not None:
        files.write_whole(out, lambda p: p.write_text(json.dumps(found, indent=2) + "\n"))
    Console().print(table(found))


@bench_app.command("checks")
@plainly
def bench_checks(
    products: Annotated[int, typer.Option(min=2, help="Products, one scene and one text of each kind for each.")] = 48,
    out: Annotated[Path, typer.Option(help="Where the figures are written; plot and pictures beside it.")] = Path(
        "checks.json"
    ),
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Another seed, other products and scenes.")] = 0,
) -> None:
    """Measure how often the checks of `uniadgen check` are right: AdWorld's ads, right and with known faults.

    Prints AUC and limits at 5 % false alarms with 95 % intervals, by product.
    """
    files.check_output(out, (".json",))
    from uniadgen.metrics import calibration
    from uniadgen.train.log import progress_bar

    with progress_bar("products", products) as bar:
        values, shown = calibration.measure_faults(products, seed, bar.advance)
    rows = calibration.calibrate(values, seed)
    figures = json.dumps(calibration.report(rows, products, seed), indent=2)
    files.write_whole(out, lambda path: path.write_text(figures + "\n"))
    files.write_whole(out.with_suffix(".png"), calibration.plot(values).savefig)
    files.save_picture(out.with_name(f"{out.stem}-faults.png"), calibration.sheet(shown))
    Console().print(calibration.table(rows, products))


@bench_app.command("text")
@plainly
def bench_text(
    pairs: Annotated[int, typer.Option(min=100, help="Texts, each with four true titles.")] = 10_000,
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this JSON file.")] = None,
) -> None:
    """Time how fast texts are scored, beside the plain way that takes every pair from the start, and its memory.

    The plain way is nltk's BLEU where nltk is installed, else written out, as ROUGE-L always is.

    Example: uniadgen bench text --pairs 10000
    """
    if out is not None:
        files.check_output(out, (".json",))
    from dataclasses import asdict

    from uniadgen.metrics.textbench import measure_texts, table

    with _rows("pairs", 2 * pairs, "pairs") as bar:
        speed = measure_texts(pairs, lambda number: bar.advance(by=number))
    if out is not None:
        files.write_whole(out, lambda p: p.write_text(json.dumps(asdict(speed), indent=2) + "\n"))
    Console().print(table(speed))


@bench_app.command("engine")
@plainly
def bench_engine(
    model: Annotated[str, typer.Option(help="`nano`, or a folder of weights.")] = "nano",
    trained: Annotated[
        str | None, typer.Option(help="Weights trained to be quicker, timed beside: nano_parallel's, for example.")
    ] = None,
    turns: Annotated[int, typer.Option(min=1, help="How often each way is timed; medians are shown.")] = 5,
    out: Annotated[Path, typer.Option(help="Where the figures are written, with a plot (.png) beside.")] = Path(
        "speed.json"
    ),
    threads: Threads = 0,
) -> None:
    """Time ads: ours, the authors' way, the plain reference, transformers' own generate, and what memory allows.

    Requests are made up, and new in every turn. See docs/speed.md for how to read the figures.

    Example: uniadgen bench engine --turns 3 --threads 2
    """
    files.check_output(out, (".json",))
    from uniadgen.speed import Bench, plot, table
    from uniadgen.train.log import progress_bar

    use_threads(threads)
    bench = Bench(model, trained)
    with progress_bar("ways", (turns + 1) * len(list(bench.ways()))) as bar:
        report = bench.measure(turns, bar.advance)
    files.write_whole(out, report.save)
    files.write_whole(out.with_suffix(".png"), lambda path: plot(report, path))
    Console().print(table(report))
    print(out)


@bench_app.command("pbs")
@plainly
def bench_pbs(
    pairs: Annotated[
        int, typer.Option(min=8, help="Pairs of pictures; memory is also measured with four times these.")
    ] = 200,
    size: Annotated[int, typer.Option(min=32, max=4096, help="Pixels of each picture.")] = 384,
    model: Metric = "pbs",
    threads: Threads = 0,
) -> None:
    """Time `uniadgen pbs` from files to similarities, beside one picture at a time, and measure its memory.

    Example: uniadgen bench pbs --pairs 500
    """
    import tempfile

    from uniadgen.metrics.pbsbench import bench_pairs, table
    from uniadgen.train.log import progress_bar

    use_threads(threads)
    with tempfile.TemporaryDirectory() as work, progress_bar("steps", 5) as bar:
        found = bench_pairs(model, Path(work), pairs, size, bar.advance)
    Console().print(table(found))


@bench_app.command("serving")
@plainly
def bench_serving(
    model: Annotated[str, typer.Option(help="`nano`, or a folder of weights.")] = "nano",
    load: Annotated[
        list[float] | None,
        typer.Option(min=0.01, help="1: as many ads as full static batches make. Repeatable; 0.5, 0.8 and 1.2."),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Ads made at once, at most.")] = 8,
    requests: Annotated[int, typer.Option(min=2, help="Requests of each load and turn.")] = 32,
    turns: Annotated[int, typer.Option(min=1, help="How often each way serves each load.")] = 2,
    out: Annotated[Path, typer.Option(help="Where the figures are written.")] = Path("serving.json"),
    threads: Threads = 0,
) -> None:
    """Serve made-up requests that come at random moments: continuously, and in static batches.

    The clock stands still while nobody asks for anything. See docs/speed.md for how to read the figures.

    Example: uniadgen bench serving --load 0.5 --load 0.9 --threads 2
    """
    files.check_output(out, (".json",))
    from uniadgen.traffic import Traffic, table
    from uniadgen.train.log import progress_bar

    use_threads(threads)
    loads = load or [0.5, 0.8, 1.2]
    with progress_bar("visits", 1 + 2 * turns * len(loads)) as bar:
        report = Traffic(model, slots).measure(loads, requests, turns, bar.advance)
    files.write_whole(out, report.save)
    Console().print(table(report))
    print(out)


@bench_app.command("drafts")
@plainly
def bench_drafts(
    model: Annotated[str, typer.Option(help="`nano`, or a folder of weights trained on AdWorld.")] = "nano",
    shoppers: Annotated[
        int, typer.Option(min=1, help="Held-out shoppers of AdWorld, whose pictures are rendered.")
    ] = 8,
    turns: Annotated[int, typer.Option(min=1, help="How often each way is timed; medians are shown.")] = 5,
    out: Annotated[Path, typer.Option(help="Where the figures are written.")] = Path("drafts.json"),
    threads: Threads = 0,
) -> None:
    """Time the same ads with 1 to 16 positions in a step, 1 to 8 ads at once, and count how many drafts are right.

    Example: uniadgen bench drafts --turns 3 --threads 2
    """
    files.check_output(out, (".json",))
    from uniadgen.ahead import AHEAD, TOGETHER, Drafts, table
    from uniadgen.train.log import progress_bar

    use_threads(threads)
    drafts = Drafts(model, shoppers)
    with progress_bar("ways", (turns + 1) * len(AHEAD) * len(TOGETHER)) as bar:
        report = drafts.measure(turns, bar.advance)
    files.write_whole(out, report.save)
    Console().print(table(report))
    print(out)


@bench_app.command("options")
@plainly
def bench_options(
    model: Annotated[str, typer.Option(help="`nano`, or a folder of weights trained on AdWorld.")] = "nano",
    trained: Annotated[
        list[str] | None,
        typer.Option(
            help="Weights trained for options: nano_compact's, nano_distilled's, nano_parallel's. Repeatable."
        ),
    ] = None,
    requests: Annotated[int, typer.Option(min=10, help="Held-out shoppers of AdWorld, one request each.")] = 100,
    turns: Annotated[int, typer.Option(min=1, help="How often each option is timed; medians are shown.")] = 5,
    out: Annotated[Path, typer.Option(help="The folder for figures and ads; a run that was stopped goes on.")] = Path(
        "options"
    ),
    threads: Threads = 0,
) -> None:
    """Measure the options that change what comes out: speed beside the default's, and what becomes of quality.

    Prints a table with 95 % intervals (whole shoppers resampled); docs/speed.md says what each option does.

    Example: uniadgen bench options --requests 100 --trained runs/nano_parallel/weights --threads 2
    """
    files.check_folder(out)
    from uniadgen.options import Bench, table

    use_threads(threads)
    report = Bench(out, model, trained or (), requests).measure(turns)
    report.save(out)
    Console().print(table(report))
    print(out)


@bench_app.command("gpu")
@plainly
def bench_gpu(
    shape: Annotated[list[str] | None, typer.Option(help="1b, 7b or tiny. Repeatable; 1b and 7b.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Ads at once. Repeatable; 1, 8 and 32.")] = None,
    accepted: Annotated[
        float, typer.Option(min=1, max=16, help="Right cells of a step with drafts: an assumption, not measured here.")
    ] = 3.0,
    seconds_budget: Annotated[float, typer.Option(min=1, help="What is not begun by then is not run.")] = 540,
    device: Annotated[str, typer.Option(help="cuda, or cpu, where tiny alone makes sense.")] = "cuda",
    profile: Annotated[bool, typer.Option("--profile", help="Tell which kernels a step consists of.")] = False,
    out: Annotated[Path, typer.Option(help="Where the figures are written, after every case.")] = Path("gpu.json"),
) -> None:
    """Time models of the paper's sizes with random weights on a GPU: steps, whole ads, what the memory allows.

    Example: uniadgen bench gpu --shape 7b --batch 1 --batch 32
    """
    files.check_output(out, (".json",))
    import torch

    from uniadgen.gpubench import GPUBench, table
    from uniadgen.standin import SHAPES

    shapes = shape or ["1b", "7b"]
    if unknown := [name for name in shapes if name not in SHAPES]:
        raise ValueError(f"--shape {unknown[0]}, expected one of {', '.join(SHAPES)}: choose one of them")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no GPU here, expected one: run it where one is, or `--device cpu --shape tiny`")
    save = lambda report: files.write_whole(out, report.save)  # noqa: E731
    say = functools.partial(print, flush=True)
    bench = GPUBench(torch.device(device), accepted, seconds_budget, say, save, profile)
    report = bench.run(shapes, batch or [1, 8, 32])
    Console(width=150).print(table(report))
    print(out)


@bench_app.command("precision")
@plainly
def bench_precision(
    model: Annotated[str, typer.Option(help="`nano`, or a folder of weights trained on AdWorld.")] = "nano",
    requests: Annotated[
        int, typer.Option(min=1, help="Held-out shoppers of AdWorld, whose pictures are rendered.")
    ] = 100,
    precision: Annotated[
        str, typer.Option(help="int8, or fp8: on a CPU that is emulated, and its seconds mean nothing.")
    ] = "int8",
    out: Annotated[Path, typer.Option(help="Where the figures are written.")] = Path("precision.json"),
    threads: Threads = 0,
) -> None:
    """Make the same ads in fp32 and in eight bits: seconds, how far they differ, what AdWorld's truth says of both.

    Example: uniadgen bench precision --requests 100 --threads 2
    """
    files.check_output(out, (".json",))
    from uniadgen.precision import Precisions, table
    from uniadgen.train.log import progress_bar

    use_threads(threads)
    precisions = Precisions(model, requests, precision)
    with progress_bar("ads", requests + 1) as bar:
        report = precisions.measure(bar.advance)
    files.write_whole(out, report.save)
    Console().print(table(report))
    print(out)


@world_app.command()
@plainly
def log(
    out: Annotated[Path, typer.Argument(help="The folder to write: events, creatives, products.")],
    clicks: Annotated[int, typer.Option(min=1, help="How many clicks; one shopper for 17 of them.")] = 10_000,
    language: Annotated[str, typer.Option(help="Of all texts: en or zh.")] = "en",
    names_only: Annotated[
        bool, typer.Option("--names-only", help="Short names instead of sentences, for shops of millions of products.")
    ] = False,
    pictures: Annotated[int, typer.Option(min=0, max=1024, help="Side of the pictures to render; 0: none.")] = 0,
    settings: Settings = None,
) -> None:
    """Write a click log of AdWorld's shoppers, in the form that `uniadgen data build` reads.

    Example: uniadgen world log logs/small --clicks 5000 --pictures 48
    """
    world = override(recipe("nano"), parse_overrides(settings or [])).world
    assert world is not None, "nano is trained on AdWorld"
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty: choose another folder")
    from uniadgen.data.adworld import shop_of
    from uniadgen.data.worldlog import write_log
    from uniadgen.train.log import progress_bar

    with progress_bar("clicks", clicks) as bar:
        write_log(
            shop_of(world),
            out,
            clicks,
            language=language,
            names_only=names_only,
            picture_size=pictures,
            advance=lambda rows: bar.advance(by=rows),
        )
    print(out)


Log = Annotated[Path, typer.Argument(help="The folder of the log: events, creatives, products (Parquet, CSV, JSONL).")]
DataSettings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a knob or map a column: build.min_clicks=8, events.user_id=member. Repeatable."),
]
Key = Annotated[
    Path | None,
    typer.Option(
        help="The file of the key that makes pseudonyms. Default: beside OUT, with the ending .key; made once."
    ),
]
Processes = Annotated[int, typer.Option(min=1, max=1024, help="Processes on this machine; the result is the same.")]
Ray = Annotated[str | None, typer.Option(help="Run on a Ray cluster instead: its address, or `local` to start one.")]


@bench_app.command("data")
@plainly
def bench_data(
    clicks: Annotated[list[int] | None, typer.Option(min=1000, help="Clicks of a log. Repeatable.")] = None,
    work: Annotated[Path, typer.Option(help="The folder for logs, which are kept, and datasets.")] = Path("runs/bench"),
    processes: Processes = 2,
    ray: Annotated[str | None, typer.Option(help="Build once more on Ray: an address, or `local`.")] = None,
    out: Annotated[Path, typer.Option(help="Where the figures are written; a plot beside it.")] = Path("bench.json"),
) -> None:
    """Time `data build` on logs of AdWorld as dense as PAd1M: seconds, CPU and memory of each step.

    One million clicks by default. Above 19 million the catalogue stays, and more shoppers click on it. No pictures.

    Example: uniadgen bench data --clicks 1000000 --clicks 19000000 --clicks 100000000
    """
    files.check_output(out, (".json",))
    from uniadgen.data import bench

    measured = []
    for number in sorted(clicks or [1_000_000]):
        with _rows("log", number) as bar:
            log = bench.make_log(work, number, lambda rows, bar=bar: bar.advance(by=rows))
        for cluster in [None, ray] if ray else [None]:
            measured.append(bench.measure(log, work / "dataset", processes, cluster))
            Console().print(bench.table(measured[-1:]))
    figures = json.dumps(bench.report(measured), indent=2) + "\n"
    files.write_whole(out, lambda path: path.write_text(figures))
    files.write_whole(out.with_suffix(".png"), lambda path: bench.plot(measured).savefig(path, dpi=110))
    Console().print(bench.table(measured))
    print(out)


@data_app.command()
@plainly
def build(
    log: Log,
    out: Annotated[Path, typer.Argument(help="The dataset's folder; a build that was stopped goes on there.")],
    key: Key = None,
    processes: Processes = 2,
    ray: Ray = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; estimate time, disk and memory from a sample.")
    ] = False,
    settings: DataSettings = None,
) -> None:
    """Build a dataset from a click log: clean, draw targets and histories, split, count and list what was dropped.

    Stop it at any time and run it again; the dataset has the same bytes. Its README.md is the data card.

    Example: uniadgen data build logs/small data/small --set build.min_clicks=8
    """
    config = override(DatasetConfig(), parse_overrides(settings or []))
    from uniadgen.data import build as building
    from uniadgen.data import plan

    if dry_run:
        from uniadgen.data.estimate import estimate

        print(estimate(log, config, processes))
        return
    with building.where(processes, ray) as execute:
        manifest = building.build(log, out, config, plan.read_key(key, out), execute, _rows)
    print(f"{manifest['samples']:,} samples: {out}")


@data_app.command()
@plainly
def prepare(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished dataset.")],
    log: Annotated[
        Path | None, typer.Option(help="The log's folder, which the pictures' paths are relative to.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Processes on this machine. Default: with models one for each GPU, else 2."),
    ] = None,
    ray: Ray = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; say how much there is to do, and what a model costs.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="What a stage uses: stages.cutout=grounded_sam, stages.cleaning=llm. Repeatable."),
    ] = None,
) -> None:
    """Check a dataset's texts, cut its products out, compare its titles. Stop it at any time and run it again.

    Only what is missing is made. What it leaves out stands in DATASET/prepared/targets.parquet, with the reason.

    Example: uniadgen data prepare data/small --log logs/small --set stages.cutout=grounded_sam

    Example: uniadgen data prepare data/small --log logs/small --dry-run --set stages.cleaning=llm
    --set stages.llm_url=http://localhost:8000/v1 --set stages.llm_model=qwen3 --set stages.price_in=0.5
    """
    config = override(PrepareConfig(), parse_overrides(settings or []))
    from uniadgen.data import build as building
    from uniadgen.data import prepare as preparing
    from uniadgen.data.job import make_job

    if dry_run:
        print("\n".join(preparing.estimate(make_job(folder, log, config))))
        return
    if processes is None and (config.stages.cutout == "grounded_sam" or config.stages.encoder):
        from uniadgen.data.checkpoints import num_devices

        processes = num_devices()
    with building.where(processes or 2, ray) as execute:
        summary = preparing.prepare(folder, log, config, execute, functools.partial(_rows, unit="items"))
    for reason, count in summary["dropped"].items():
        print(f"left out, {reason}: {count['samples']:,} samples of {count['targets']:,} targets")
    print(f"{summary['kept']:,} of {summary['samples']:,} samples: {folder / 'prepared'}")


@data_app.command()
@plainly
def forget(
    out: Annotated[Path, typer.Argument(help="The folder of a finished dataset.")],
    users: Annotated[list[str], typer.Argument(help="Ids of the users to delete, as the log has them.")],
    key: Key = None,
    processes: Processes = 2,
    ray: Ray = None,
) -> None:
    """Delete users from a dataset; only their partitions are made again."""
    from uniadgen.data import build as building
    from uniadgen.data import plan

    with building.where(processes, ray) as execute:
        manifest = building.forget(out, users, plan.read_key(key, out, make=False), execute, _rows)
    print(f"{manifest['samples']:,} samples: {out}")


@data_app.command()
@plainly
def validate(log: Log, processes: Processes = 2, settings: DataSettings = None) -> None:
    """Say column by column what is wrong with a log, and what `build` will do about it. Writes nothing.

    Example: uniadgen data validate logs/small --set events.user_id=member
    """
    config = override(DatasetConfig(), parse_overrides(settings or []))
    from uniadgen.data import build as building
    from uniadgen.data.validate import findings, table_of

    with building.where(processes, None) as execute:
        found = findings(log, config, execute, _rows)
    if found:
        Console().print(table_of(found))
    else:
        print("no row is dropped")


@data_app.command("export")
@plainly
def export_pad1m(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished dataset.")],
    out: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    pictures: Annotated[Path, typer.Option(help="The folder that the pictures' paths are relative to: the log's.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
) -> None:
    """Write one split of a dataset as PAd1M's published JSON, which the authors' loader reads.

    Where `data prepare` was run, its cut-outs are written to a folder beside OUT, named as OUT without its ending.

    Example: uniadgen data export data/small test.json --pictures logs/small
    """
    files.check_output(out, (".json",))
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"{folder}: no finished dataset, expected the folder of one")
    from uniadgen.data.export import records_of
    from uniadgen.data.pad1m import write_records

    records = records_of(folder, pictures, split, out.with_suffix(""))
    print(f"{write_records(out, records):,} records: {out}")


@data_app.command("gallery")
@plainly
def write_gallery_command(
    source: Annotated[Path, typer.Argument(help="What `uniadgen data encode` reads: a dataset, .jsonl or .json.")],
    out: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    pictures: Annotated[
        Path | None, typer.Option(help="The folder that pictures' paths are relative to. Default: that of the file.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of a dataset: train, validation or test.")] = "train",
    most: Annotated[int, typer.Option(min=1, help="How many samples at most.")] = 1000,
) -> None:
    """Write samples with their pictures as Parquet that `datasets` and its viewer show. For looking, not for training.

    Example: uniadgen data gallery data/small look.parquet --pictures logs/small
    """
    files.check_output(out, (".parquet",))
    from uniadgen.data.gallery import write_gallery
    from uniadgen.data.listing import read_listing

    listing = read_listing(source, pictures, split)
    with _rows("samples", min(most, listing.num_samples)) as bar:
        number = write_gallery(out, listing, most, lambda n: bar.advance(by=n))
    print(f"{number:,} samples: {out}")


@data_app.command("remap")
@plainly
def remap_pad1m(
    source: Annotated[Path, typer.Argument(help="A JSON file in PAd1M's published form.")],
    out: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    folders: Annotated[list[str], typer.Option("--folder", help="old=new, the beginnings of paths. Repeatable.")],
) -> None:
    """Check a PAd1M file and move the pictures that it names to where they are here.

    The published data are for academic use only.

    Example: uniadgen data remap PAd1M.json here.json --folder images/=pad1m/images/
    """
    files.check_output(out, (".json",), keep=(source,))
    if wrong := [folder for folder in folders if "=" not in folder]:
        raise ValueError(f"got --folder {wrong[0]}, expected old=new")
    from uniadgen.data.pad1m import read_records, remap, write_records

    moves = dict(folder.split("=", 1) for folder in folders)
    moved = (remap(record, moves) for record in read_records(source))
    print(f"{write_records(out, moved, least_history=0):,} records: {out}")


def _rows(what: str, total: int, unit: str = "rows") -> Any:
    from uniadgen.train.log import progress_bar

    return progress_bar(what, total, unit=unit)


class JanusLayout(StrEnum):
    """The two layouts in which Janus-Pro is published."""

    HF = "hf"
    ORIGINAL = "original"


@convert_app.command()
@plainly
def janus(
    path: Annotated[Path, typer.Argument(help="A folder with Janus-Pro, as DeepSeek or as Hugging Face lays it out.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    layout: Annotated[JanusLayout, typer.Option(help="The layout to write; training reads `hf`.")] = JanusLayout.HF,
    shard_gb: Annotated[float, typer.Option(min=0.001, help="Size of the shards written, in GB.")] = 2.0,
) -> None:
    """Bring Janus-Pro into the layout that training starts from, shard by shard; nothing is downloaded.

    Every tensor's name and shape is checked first. The weights come under the DeepSeek model licence, also converted.

    Example: uniadgen convert janus Janus-Pro-1B --out janus-pro-1b
    """
    from uniadgen.model.convert import convert_janus
    from uniadgen.model.shards import shards
    from uniadgen.train.log import progress_bar

    with progress_bar("shards", len(shards(path))) as bar:
        convert_janus(path, out, layout.value, shard_bytes=int(shard_gb * 1e9), advance=bar.advance)
    print(out)


@convert_app.command()
@plainly
def official(
    path: Annotated[Path, typer.Argument(help="The authors' trainable_model_parameters.pth.")],
    base: Annotated[Path, typer.Option(help="A folder with Janus-Pro-7B, in either layout, its tokenizer beside it.")],
    out: Annotated[Path, typer.Option(help="The folder of weights to write.")],
    release: Annotated[Path | None, typer.Option(help="A clone of the authors' code, for its two sentences.")] = None,
    question_file: Annotated[
        Path | None,
        typer.Option(help="Instead of the clone's: a text with {points}, {titles}, {description}, {pictures}."),
    ] = None,
    negative_file: Annotated[Path | None, typer.Option(help="Instead of the clone's: the negative prompt.")] = None,
    settings: Settings = None,
    shard_gb: Annotated[float, typer.Option(min=0.001, help="Size of the shards written, in GB.")] = 2.0,
) -> None:
    """Bring the authors' released weights into a folder that `generate --model` reads; nothing is downloaded.

    Every tensor's name and shape is checked first. The release, and what becomes of it, is for academic use only.

    Example: uniadgen convert official trainable_model_parameters.pth --base Janus-Pro-7B --release Uni-AdGen
    --out official-7b
    """
    config = override(recipe("official_7b"), parse_overrides(settings or []))
    from uniadgen.data.sentences import read_prompts
    from uniadgen.model.official import convert_official
    from uniadgen.model.shards import shards
    from uniadgen.train.log import progress_bar

    prompts = read_prompts(release, question_file, negative_file)
    with progress_bar("shards", len(shards(base)) + 1) as bar:
        convert_official(path, base, prompts, out, config, shard_bytes=int(shard_gb * 1e9), advance=bar.advance)
    print(out)


@convert_app.command("pbs")
@plainly
def convert_pbs(
    path: Annotated[Path, typer.Argument(help="The authors' checkpoint of PBS, a file of torch.")],
    out: Annotated[Path, typer.Option(help="The folder of weights to write.")],
    heads: Annotated[int, typer.Option(min=1, help="Attention heads, which the tensors do not tell.")] = 12,
) -> None:
    """Bring the authors' PBS into a folder that `uniadgen pbs --model` reads; nothing is downloaded.

    Every tensor's name and shape is checked first. Their weights, and what becomes of them, are for academic use only.

    Example: uniadgen convert pbs pbs.pth --out pbs-official
    """
    from uniadgen.metrics.pbs import PBS

    PBS.from_moco(path, heads).save(out)
    print(out)


def main() -> None:
    """Entry point of the `uniadgen` command."""
    app()


if __name__ == "__main__":
    main()
