"""The versions that were tried: one table for pip, one for `psr-ray doctor`, one for readers."""

import re
import tomllib

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from psr_ray import doctor
from psr_ray.errors import PsrError


def test_the_doctor_and_the_package_ask_for_the_same_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    assert {name: asked[name] for name in doctor.TRIED} == {
        name: SpecifierSet(versions) for name, versions in doctor.TRIED.items()
    }


def test_the_page_names_the_ends_of_each_window():
    page = (ROOT / "docs" / "compatibility.md").read_text()
    for name, versions in doctor.TRIED.items():
        least = re.match(r"[>=]=([\d.]+)", versions)[1]
        assert re.search(rf"^\| {name} .*{re.escape(least)}", page, re.MULTILINE), name


def test_another_version_and_a_missing_package_are_one_line(monkeypatch):
    assert "torch 2.13.0" in doctor.check_versions()
    monkeypatch.setitem(doctor.TRIED, "ray", ">=1,<2")
    with pytest.raises(PsrError, match=r"than those tried: ray 2\.\S+ \(tried: >=1,<2\); install"):
        doctor.check_versions()
    monkeypatch.setitem(doctor.TRIED, "no-such-package", ">=1")
    with pytest.raises(PsrError, match="not installed: no-such-package; install from the lock"):
        doctor.check_versions()
