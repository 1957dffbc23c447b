"""Teachers: sentence encoders whose vectors the student learns to give."""

from energyflow_mlx.teacher.function import Embed, FunctionTeacher, import_function
from energyflow_mlx.teacher.load import load_teacher, teacher_from
from energyflow_mlx.teacher.teacher import (
    PrecomputedTeacher,
    Teacher,
    cached_vectors,
)

__all__ = [
    "Embed",
    "FunctionTeacher",
    "PrecomputedTeacher",
    "Teacher",
    "cached_vectors",
    "import_function",
    "load_teacher",
    "teacher_from",
]
