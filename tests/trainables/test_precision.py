from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainables.training.precision import auto_precision

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx512f avx512_bf16", ("bf16", "the CPU has AVX-512 bf16")),
        ("avx512_bf16 amx_bf16 amx_tile", ("bf16", "the CPU has AMX bf16")),
        ("fpu avx2 avx512f", ("fp32", "the CPU has neither AVX-512 bf16 nor AMX")),
    ],
)
def test_auto_follows_the_cpus_flags_and_says_why(tmp_path, flags, expected):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n")
    assert auto_precision(info) == expected


def test_a_machine_without_cpuinfo_gets_fp32(tmp_path):
    assert auto_precision(tmp_path / "missing")[0] == "fp32"


def test_planning_teachers_and_students_imports_no_heavy_library():
    program = (
        "import sys, trainables.teacher, trainables.student as s; s.StudentConfig(init='svd').identity();"
        "print(sorted({'torch', 'numpy', 'transformers', 'peft', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
