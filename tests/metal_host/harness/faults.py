"""What can be wrong with a kernel, as exceptions that tests can match on."""


class KernelFault(AssertionError):
    """A kernel did something that a GPU would not forgive.

    Attributes:
        kernel: The kernel's name.
        kind: One word for the class of fault: ``out-of-bounds``, ``data-race``,
            ``uninitialised-read``, ``unwritten-output``, ``write-to-input``,
            ``wild-access``, ``divergence``, ``inactive-lane``, ``endless-loop``,
            ``undefined-behaviour``, ``schedule-dependent``, ``limit``, ``type``,
            ``name-clash``, ``compile`` or ``lint``.
        line: Line in the kernel's ``source`` (or header) text, when known.
    """

    def __init__(
        self, kernel: str, kind: str, text: str, *, line: int | None = None
    ) -> None:
        super().__init__(f"[{kernel}] {kind}: {text}")
        self.kernel = kernel
        self.kind = kind
        self.line = line


class CompileFault(KernelFault):
    """The text is not a program: g++ or the signature check refused it."""

    def __init__(self, kernel: str, text: str) -> None:
        super().__init__(kernel, "compile", text)


class LintFault(KernelFault):
    """The text compiles on the host but holds something Metal does not have."""

    def __init__(self, kernel: str, text: str, line: int | None = None) -> None:
        super().__init__(kernel, "lint", text, line=line)
