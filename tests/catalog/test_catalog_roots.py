"""Where catalogs come from, and what they are called."""

from __future__ import annotations

import sys

import pytest

from nemotron.catalog.roots import OWN_PATH, find_roots
from nemotron.errors import CheckFailed


def roots_of(value):
    return [(root.name, root.path) for root in find_roots({"NEMOTRON_CATALOG": value})]


@pytest.fixture
def directory(tmp_path):
    def directory(path):
        (tmp_path / path).mkdir(parents=True)
        return tmp_path / path

    return directory


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution whose entry_points.txt holds this text; gives its site directory."""

    def install(project, entry_points, site="site"):
        place = tmp_path / site
        info = place / f"{project}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "entry_points.txt").write_text(entry_points)
        if str(place) not in sys.path:
            monkeypatch.syspath_prepend(str(place))
        return place

    return install


def test_without_a_setting_there_is_ours_alone():
    assert [(root.name, root.path) for root in find_roots({})] == [("nemotron", OWN_PATH)]


def test_listed_directories_come_first_in_their_order(directory):
    one, two = directory("one"), directory("two")
    assert roots_of(f"{two}:{one}") == [("two", two), ("one", one), ("nemotron", OWN_PATH)]


def test_names_are_unique_and_ours_is_reserved(directory):
    paths = [directory("x/steps"), directory("y/steps"), directory("z/nemotron")]
    names = [name for name, _ in roots_of(":".join(map(str, paths)))]
    assert names == ["steps", "steps-2", "nemotron-2", "nemotron"]


def test_empty_entries_and_repeated_directories_count_once(directory):
    one = directory("one")
    (one.parent / "link").symlink_to(one)
    assert roots_of(f":{one}::{one}/:{one}/../one:{one.parent}/link:") == [
        ("one", one),
        ("nemotron", OWN_PATH),
    ]


def test_our_own_directory_keeps_its_name_where_it_is_listed(directory):
    one = directory("one")
    assert roots_of(f"{OWN_PATH}:{one}") == [("nemotron", OWN_PATH), ("one", one)]


def test_relative_directories_and_the_home_directory(directory, monkeypatch):
    one = directory("home/one")
    monkeypatch.setenv("HOME", str(one.parent))
    monkeypatch.chdir(one)
    assert roots_of(".:..")[:2] == [("one", one), ("home", one.parent)]
    assert roots_of("~/one")[0] == ("one", one)


def test_a_root_that_cannot_be_used_says_so(tmp_path, load, write_step):
    (tmp_path / "file").write_text("")
    write_step(tmp_path / "good", "a/b")
    catalog = load(tmp_path / "gone", tmp_path / "file", tmp_path / "good")
    assert [(entry.id, entry.problem) for entry in catalog.broken] == [
        ("gone:*", "catalog root does not exist"),
        ("file:*", "catalog root is a file, not a directory"),
    ]
    assert catalog.get("a/b").root == "good"
    with pytest.raises(CheckFailed, match="catalog root does not exist"):
        catalog.get("gone:a/b")


def test_an_installed_package_is_a_root_and_is_not_imported(install, load, write_step):
    place = install(
        "acme-catalog", "[console_scripts]\nacme = acme:main\n[nemotron.catalogs]\nacme = acme_catalog\n"
    )
    write_step(place / "acme_catalog", "a/b")
    (place / "acme_catalog" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    catalog = load()
    assert [root.name for root in catalog.roots] == ["acme", "nemotron"]
    assert catalog.get("acme:a/b").directory == place / "acme_catalog" / "a" / "b"
    assert "acme_catalog" not in sys.modules


def test_a_package_inside_a_package_and_a_namespace_package(install):
    place = install("two", "[nemotron.catalogs]\ninner = outer_pkg.steps\nspace = space_pkg.steps\n")
    (place / "outer_pkg" / "steps").mkdir(parents=True)
    (place / "outer_pkg" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (place / "space_pkg" / "steps").mkdir(parents=True)
    found = {root.name: root.path for root in find_roots({})}
    assert found["inner"] == place / "outer_pkg" / "steps"
    assert found["space"] == place / "space_pkg" / "steps"


def test_an_attribute_gives_the_directory(install, tmp_path):
    place = install("attr", "[nemotron.catalogs]\nlab = lab_catalog:paths.STEPS [extra]\n")
    (tmp_path / "somewhere").mkdir()
    (place / "lab_catalog.py").write_text(
        "import pathlib, types\n"
        f"paths = types.SimpleNamespace(STEPS=pathlib.Path({str(tmp_path / 'somewhere')!r}))\n"
    )
    assert ("lab", tmp_path / "somewhere") in roots_of("")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("missing_pkg", "ModuleNotFoundError: no package named 'missing_pkg'"),
        ("json.decoder:nothing", "AttributeError"),
        ("json:dumps", "TypeError: dumps is a function, not a path"),
        ("abc", "ModuleNotFoundError: 'abc' is a module, not a package"),
        ("a b", "is neither a package nor package:attribute"),
        ("raises_on_import:X", "ZeroDivisionError"),
        ("json.nothing", "catalog root does not exist"),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_listed_with_its_reason(install, load, value, problem):
    place = install("bad", f"[nemotron.catalogs]\nbad = {value}\n")
    (place / "raises_on_import.py").write_text("1 / 0\n")
    catalog = load()
    (entry,) = [entry for entry in catalog.broken if entry.root == "bad"]
    assert entry.id == "bad:*"
    assert problem in entry.problem
    assert catalog.roots[-1].name == "nemotron"


def test_a_distribution_found_twice_counts_where_it_comes_first(install):
    later = install("acme_cat", "[nemotron.catalogs]\nold = json\n", site="later")
    first = install("Acme.Cat", "[nemotron.catalogs]\nnew = json\n", site="first")
    assert sys.path.index(str(first)) < sys.path.index(str(later))
    assert [root.name for root in find_roots({})] == ["new", "nemotron"]


def test_other_groups_and_comments_are_no_catalogs(install):
    install(
        "noise", "[other.nemotron.catalogs]\na = json\n[nemotron.catalogs]\n# b = json\n\n[x]\nc = json\n"
    )
    assert [root.name for root in find_roots({})] == ["nemotron"]


def test_an_entry_point_keeps_its_name_and_a_listed_directory_gives_way(install, directory):
    install("acme", "[nemotron.catalogs]\nacme = json\nnemotron = email\n")
    listed = directory("x/acme")
    assert [name for name, _ in roots_of(str(listed))] == ["acme-2", "acme", "nemotron-2", "nemotron"]
