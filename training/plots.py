"""Pictures as SVG, alike wherever they are drawn: the same numbers give the same bytes."""

import pathlib


def pyplot():
    """matplotlib's, set up for SVG with text as text and no dates or random names in it."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "nsa-serve", "font.size": 9})
    return plt


def save(figure, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot().close(figure)
    # matplotlib leaves blanks at ends of lines.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")


def thousands(tokens: int) -> str:
    return f"{tokens / 1024:g}k" if tokens >= 1024 else str(tokens)


def curves(lines: dict[str, tuple[list, list]], path: pathlib.Path, title: str, x: str, y: str, log_y=False) -> None:
    """`lines`: label → (x values, y values)."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for label, (across, up) in lines.items():
        axis.plot(across, up, label=label, linewidth=1.2, marker="o" if len(across) < 40 else None, markersize=3)
    axis.set(title=title, xlabel=x, ylabel=y)
    if log_y:
        axis.set_yscale("log")
    axis.grid(alpha=0.3)
    if len(lines) > 1:
        axis.legend()
    save(figure, path)


def heat_map(values: list[list[float]], rows: list[str], columns: list[str], path: pathlib.Path, **words) -> None:
    """Shares from 0 to 1, [rows][columns], each with its number. `words`: title, xlabel, ylabel."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(1.6 + 0.75 * len(columns), 1.2 + 0.32 * len(rows)), layout="constrained")
    axis.imshow(values, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axis.text(j, i, f"{100 * value:.0f}", ha="center", va="center")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(**words)
    save(figure, path)
