"""Teachers: sentence encoders whose vectors the student learns to give."""

from energyflow_mlx.teacher.bert import BertEncoder, load_teacher, teacher_from
from energyflow_mlx.teacher.teacher import (
    PrecomputedTeacher,
    Teacher,
    cached_vectors,
)

__all__ = [
    "BertEncoder",
    "PrecomputedTeacher",
    "Teacher",
    "cached_vectors",
    "load_teacher",
    "teacher_from",
]
