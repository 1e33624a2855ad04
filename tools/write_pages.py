"""docs/results.md and docs/methods.md from the committed results.

python tools/write_pages.py
"""

from pathlib import Path

from tailsmith.files import read_json, write_text
from tailsmith.reproduction.pages import methods_page, read_results, results_page

ROOT = Path(__file__).parents[1]


def main() -> None:
    results = read_results(ROOT / "results")
    times = read_json(ROOT / "results" / "methods-time.json")["over_erm"]
    write_text(ROOT / "docs" / "results.md", results_page(results, "../results"))
    write_text(ROOT / "docs" / "methods.md", methods_page(results, times))


if __name__ == "__main__":
    main()
