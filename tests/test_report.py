"""The terminal table, the CSV file, the figures and the HTML page show the numbers they were given."""

import base64
import csv
import html
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from pirn_jax import atomic
from pirn_jax.metrics import intervals
from pirn_jax.report import figures, page, tables
from tests import reports
from tests.reports import HOSTILE

VOID = {"meta", "img", "br", "link", "hr", "input"}


@pytest.fixture
def results():
    return reports.results()


@pytest.fixture
def gallery():
    return reports.gallery()


def columns(line):
    """Terminal columns of text that is Latin or Chinese."""
    return sum(2 if char >= "\N{CJK RADICAL REPEAT}" else 1 for char in line)


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text, and refuses tags that do not close in order."""

    def __init__(self, text):
        """Reads the whole document."""
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        """Remembers a tag."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Remembers a tag without content."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Closes the tag opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Remembers text outside of style sheets and scripts."""
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data

    def attributes(self, tag, name):
        """All values of an attribute."""
        return [attrs[name] for found, attrs in self.tags if found == tag and name in attrs]


@pytest.fixture
def written(tmp_path, results, gallery):
    """The text of a page with one gallery."""
    page.write_page(tmp_path / "report.html", results, [gallery])
    return (tmp_path / "report.html").read_text("utf-8")


def test_table_holds_mean_and_deviation_over_seeds(results):
    table = tables.format_table(results)
    rows = [line for line in table.splitlines() if line.startswith("bracket")]
    # By hand: 2.4 / 3 and sqrt(0.02 / 3), 1.5 / 3 and sqrt(0.125 / 3), 0.875 / 3 and sqrt(7 / 288).
    assert [re.split(" {2,}", row)[1:] for row in rows] == [["0.800 ± 0.082", "0.500 ± 0.204", "0.292 ± 0.156"]] * 2


def test_table_takes_the_mean_row_from_the_results(results):
    results["mean"]["2"]["image_auroc"] = {"mean": 0.1234, "std": 0.0567}
    means = [re.split(" {2,}", line) for line in tables.format_table(results).splitlines() if line.startswith("mean")]
    assert means[0] == ["mean", "0.123 ± 0.057", "0.633 ± 0.044", "–"]
    assert means[1] == ["mean", "0.811 ± 0.022", "0.633 ± 0.044", "–"]


def test_table_orders_shots_as_numbers_and_ends_with_the_notes(results):
    table = tables.format_table(results)
    assert table.index("2 shots, 3 seeds") < table.index("10 shots, 3 seeds")
    assert table.splitlines()[1] == "Metrics: form exact; resolution 224."
    assert table.index("random weights") > table.rindex("mean")
    assert "<i>." in table


def test_table_fits_a_terminal_and_its_columns_line_up(results):
    for categories in results["results"].values():
        categories["a very long name " * 9] = categories["bracket"]
        categories["歯車" * 30] = categories["bracket"]
    lines = tables.format_table(results).splitlines()
    assert max(map(columns, lines)) == 80
    scored = [line for line in lines if "AUPRO" in line or line.endswith(("0.156", "–"))]
    assert {columns(line) for line in scored} == {80}
    assert len(scored) == 2 * 6


def test_table_lets_no_control_character_through(results):
    results["results"]["2"]["\x1b[31mred\x07"] = results["results"]["2"]["bracket"]
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", tables.format_table(results))


@pytest.mark.parametrize(
    ("values", "text"),
    [([None, None], "–"), ([], "–"), ([0.5], "0.500"), ([0.5, None], "0.500"), ([0.25, 0.75], "0.500 ± 0.250")],
)
def test_undefined_metrics_and_single_seeds_have_no_invented_numbers(values, text):
    assert tables.score_text(*tables.summarize(values)) == text


def test_a_single_seed_has_no_deviation_in_the_mean_row(results):
    for metrics in results["results"]["2"].values():
        metrics.update({metric: values[:1] for metric, values in metrics.items()})
    assert tables.mean_row(results, "2") == ["0.811", "0.633", "–"]


def test_csv_comes_back_as_it_was(tmp_path, results):
    path = tmp_path / "results.csv"
    results["results"]["2"]["bracket"]["image_auroc"][0] = 1 / 3
    tables.write_csv(results, path)
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
    assert list(rows[0]) == ["shots", "category", "seed", "image_auroc", "pixel_auroc", "aupro_30"]
    read = {}
    for row in rows:
        metrics = read.setdefault(row["shots"], {}).setdefault(
            row["category"], {metric: [] for metric in tables.METRICS}
        )
        assert int(row["seed"]) == len(metrics["image_auroc"])
        for metric in tables.METRICS:
            metrics[metric].append(float(row[metric]) if row[metric] else None)
    assert read == results["results"]


def test_files_are_replaced_whole_and_leave_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "name"
    atomic.write_text(path, "old")
    atomic.write_text(path, "undecodable \udcff")
    assert path.read_text("utf-8") == "undecodable \\udcff"
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        atomic.write_text(path, "new")
    assert [(file.name, file.read_text("utf-8")) for file in tmp_path.iterdir()] == [("name", "undecodable \\udcff")]


def test_heat_runs_from_dark_to_bright_in_even_steps():
    colours = figures.heat(np.linspace(-1, 3, 256)[None], -1.0, 3.0)[0]
    linear = np.where(colours <= 10, colours / 255 / 12.92, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    assert lightness[0] < 5
    assert lightness[-1] > 93
    assert (np.diff(lightness[::4]) > 0).all()
    assert (np.diff(luminance) >= -1e-3).all()
    assert np.ptp(np.diff(lightness[::51])) < 12  # five equal steps of value are about 18 of lightness each


def test_heat_clips_and_survives_missing_values_and_flat_maps():
    values = np.array([[-9.0, 0.0, 1.0, 9.0, np.nan, np.inf]])
    shown = figures.heat(values, 0.0, 1.0)[0]
    dark, bright = shown[1], shown[2]
    assert (dark != bright).any()
    np.testing.assert_array_equal(shown, [dark, dark, bright, bright, dark, bright])
    np.testing.assert_array_equal(figures.heat(np.full((2, 2), 0.5), 0.5, 0.5), np.broadcast_to(dark, (2, 2, 3)))


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (np.nan, 1.0), (0.0, np.inf)])
def test_heat_refuses_a_scale_that_is_none(low, high):
    with pytest.raises(ValueError, match="finite low <= high"):
        figures.heat(np.zeros((2, 2)), low, high)


def test_overlay_shows_the_part_where_the_map_is_low():
    rgb = np.full((1, 2, 3), 200, np.uint8)
    low, high = figures.overlay(rgb, np.array([[0.0, 1.0]]), 0.0, 1.0)[0].astype(int)
    bright = figures.heat(np.ones((1, 1)), 0.0, 1.0)[0, 0].astype(int)
    np.testing.assert_array_equal(low, 200)
    assert np.abs(high - bright).max() <= 0.1 * 255
    with pytest.raises((ValueError, TypeError), match="1, ?2, ?3.*2, ?2"):  # a TypeError where shape types are checked
        figures.overlay(rgb, np.zeros((2, 2)), 0.0, 1.0)


def test_outline_surrounds_the_mask_and_leaves_it_in_view():
    rgb = np.full((20, 20, 3), 90, np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[8:12, 8:12] = True
    changed = (figures.outline(rgb, mask) != rgb).any(-1)
    assert not changed[mask].any()
    assert changed[7, 8:12].all()
    np.testing.assert_array_equal(changed, changed.T)
    np.testing.assert_array_equal(changed, changed[::-1])
    assert not changed[:5].any()
    assert (rgb == 90).all()


@pytest.mark.parametrize(("shape", "kind"), [((16, 8, 3), "JPEG"), ((16, 8), "PNG")])
def test_data_uri_holds_the_image(shape, kind):
    image = np.full(shape, 255, np.uint8)
    head, data = figures.data_uri(image).split(",")
    decoded = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (head, decoded.format) == (f"data:image/{kind.lower()};base64", kind)
    np.testing.assert_allclose(np.asarray(decoded), image, atol=2)


def test_histogram_counts_every_part_once():
    good, defect = np.array([0.0, 0.0, 0.1, 0.4]), np.array([0.4, 1.0, 1.0, 1.0, 0.9])
    svg = figures.histogram_svg(good, defect)
    reader = Reader(svg)
    titles = re.findall(r"<title>(\d+) (good|defective), score", svg)
    counted = {kind: sum(int(count) for count, found in titles if found == kind) for kind in ("good", "defective")}
    assert counted == {"good": 4, "defective": 5}
    assert sorted(map(int, reader.attributes("rect", "data-count"))) == [1, 1, 1, 1, 2, 3]
    bars = [(int(a["data-count"]), float(a["height"])) for tag, a in reader.tags if "data-count" in a and tag == "rect"]
    assert len({round(height / count) for count, height in bars}) == 1
    assert {"good (4)", "defective (5)", "score", "parts"} <= set(re.findall("<text[^>]*>([^<]*)<", svg))


@pytest.mark.parametrize(("good", "defect"), [([], []), ([0.5], []), ([0.5, 0.5], [0.5])])
def test_histogram_of_few_or_equal_scores(good, defect):
    svg = figures.histogram_svg(np.array(good), np.array(defect))
    assert "nan" not in svg
    assert sum(map(int, Reader(svg).attributes("rect", "data-count"))) == len(good) + len(defect)


def test_histogram_refuses_scores_that_are_no_numbers():
    with pytest.raises(ValueError, match="1 of 3 are not"):
        figures.histogram_svg(np.array([0.1, np.nan]), np.array([0.2]))


def test_page_is_well_formed_and_stands_alone(written):
    reader = Reader(written)
    addresses = [
        value for _, attrs in reader.tags for name, value in attrs.items() if name in ("src", "href", "srcset")
    ]
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not re.search(r"https?:|url\(|@import|<link|fetch\(", written)
    assert [attrs for tag, attrs in reader.tags if tag == "script"] == [{}]


def test_page_links_lead_somewhere_and_images_have_words(written):
    reader = Reader(written)
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in reader.attributes("a", "href")} <= set(ids)
    assert all(alt.strip() for alt in reader.attributes("img", "alt"))
    assert len(reader.attributes("img", "alt")) == len(reader.attributes("img", "src")) == 3 * 5 + 1
    assert len(reader.attributes("th", "scope")) == sum(tag == "th" for tag, _ in reader.tags)
    assert reader.attributes("html", "lang") == ["en"]


def test_page_shows_hostile_names_literally(written):
    reader = Reader(written)
    assert not {"b", "u", "i"} & {tag for tag, _ in reader.tags}
    assert "<script>alert" not in written
    for name in (HOSTILE, "<u>dent</u>", "<script>alert(1)</script>", "words <i>."):
        assert name in reader.text
    assert f"Fused map of {HOSTILE}" in reader.attributes("img", "alt")


def test_page_shows_the_same_numbers_as_the_table(written, results):
    text = Reader(written).text.replace("\N{NO-BREAK SPACE}", " ")
    for shots in results["results"]:
        for _, cells in tables.category_rows(results, shots):
            assert all(cell in text for cell in cells)
    assert (
        "With 10 good parts per category, the mean over 2 categories and 3 seeds is 0.811 ± 0.022 image AUROC" in text
    )
    # AUPRO is undefined everywhere.
    assert "is 0.811 ± 0.022 image AUROC and 0.633 ± 0.044 pixel AUROC." in text
    assert text.index("With 10 good parts") < text.index("With 2 good parts")
    for expected in ("0.1235", "0.25", "0.875", "train/good/009", "12.5 s", "1.2.3", "0.001", "no mask", "no defect"):
        assert expected in text


def test_page_shows_kinds_of_defects_by_category_and_sizes_over_all_with_the_most_shots(written):
    text = " ".join(html.unescape(re.sub("<[^>]*>", " ", written)).split())
    kinds, sizes = (f"{what}, 10 shots {what} parts regions" for what in ("Kind of defect", "Size of region"))
    low, high = intervals.auroc_interval(0.8, 4, 5)
    row = f"<u>dent</u> 4 6 0.800 ± 0.082 0.500 ± 0.204 0.292 ± 0.156 {low:.2f} – {high:.2f}"
    columns = "image AUROC pixel AUROC AUPRO@30% 95 % interval of image AUROC"
    assert f"{kinds} {columns} bracket {row} {HOSTILE} scratch 7 – 0.800 ± 0.283 – – –" in text
    # By hand: the deviations are those of (1, 3, 2) / 4 and (3, 4, 5) / 8, sqrt(2 / 3) of a step.
    row = "0.500 ± 0.204 0.500 ± 0.102"
    assert f"{sizes} pixel AUROC AUPRO@30% small 2 3 {row} large 2 4 {row} A row" in text
    assert "Metrics: form exact; resolution 224." in text


def test_rows_of_several_categories_add_counts_and_average_seed_by_seed():
    def group(regions, values):
        return {"parts": 2, "regions": regions, "metrics": {"aupro_30": values}}

    categories = [{"hole": group(3, [0.0, 1.0])}, {"hole": group(4, [0.5, 0.5]), "cut": group(None, [None, None])}]
    rows = tables.group_rows([*categories, {"hole": group(1, [None, None])}], ["aupro_30"])
    assert rows == [("hole", ["6", "8", "0.500 ± 0.250"]), ("cut", ["2", "–", "–"])]


def test_results_without_breakdowns_have_no_tables_of_them(tmp_path, results):
    del results["by_defect"], results["by_size"], results["settings"]["metrics_form"]
    page.write_page(tmp_path / "report.html", results, [])
    assert "Kind of defect" not in (tmp_path / "report.html").read_text("utf-8")


def test_page_puts_the_notes_before_any_number(written, results):
    text = Reader(written).text
    assert all(text.index(note) < text.index("image AUROC") for note in results["notes"])


def test_page_without_notes_or_galleries(tmp_path, results):
    del results["notes"]
    page.write_page(tmp_path / "report.html", results, [])
    text = Reader((tmp_path / "report.html").read_text("utf-8")).text
    assert "Read this first" not in text
    assert "Parts" not in text


def test_maps_of_single_modalities_share_the_scale_of_what_they_reach(gallery):
    shown = page._gallery(gallery)["scales"]
    values = [of for picture in gallery.pictures for of in picture.maps.values()]
    ends = page._ends(min(map(np.min, values)), max(map(np.max, values)))
    assert shown == [("Fused map", "0.25", "0.875"), *((name, *ends) for name in ("RGB map", "Normals map"))]


def test_picture_refuses_an_unknown_kind(gallery):
    good = gallery.pictures[0]
    with pytest.raises(ValueError, match="'nice'.*best detected"):
        page.Picture("nice", "a", "b", 0.0, good.rgb, "Normals", good.geometry, good.maps, good.fused, None)
