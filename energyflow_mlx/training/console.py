"""Where a training is shown: its reader, a pipe's other end, may go before it ends."""

from rich.console import Console

from energyflow_mlx.runtime.interrupts import Held


class RunConsole(Console):
    """Standard output of a training."""

    def on_broken_pipe(self) -> None:
        """Do what a process is told whose terminal closes: save and end, or go on.

        Nothing is shown from here on. A process that ignores SIGHUP (``nohup``) goes
        on.
        """
        self.quiet = True
        Held.hang_up()
