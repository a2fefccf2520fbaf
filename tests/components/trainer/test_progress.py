"""What a user sees of a training."""

from __future__ import annotations

import io

from components.trainer.progress import Terminal, Titled


class FakeTerminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_file_gets_whole_lines_and_no_bar() -> None:
    out = io.StringIO()
    terminal = Terminal(out)
    terminal.step("epoch 1/2", 1, 4)
    terminal.say("epoch 1/2  loss 0.5")
    assert out.getvalue() == "    epoch 1/2  loss 0.5\n"


def test_a_terminal_gets_a_bar_that_a_line_clears() -> None:
    out = FakeTerminal()
    terminal = Terminal(out)
    terminal.step("epoch 1/2", 4, 4, "8 slices/s")
    assert "4/4 8 slices/s" in out.getvalue()
    assert "\n" not in out.getvalue()
    terminal.say("done")
    assert out.getvalue().endswith("\r\x1b[K    done\n")


def test_a_title_stands_before_lines_and_bars() -> None:
    out = FakeTerminal()
    titled = Titled(Terminal(out), "fold 2/5")
    titled.step("epoch 1/2", 4, 4, "8 slices/s")
    titled.say("epoch 1/2  loss 0.5")
    bar, line = out.getvalue().split("\r\x1b[K")[1:]
    assert bar.startswith("    fold 2/5  epoch 1/2 ")
    assert line == "    fold 2/5  epoch 1/2  loss 0.5\n"


def test_a_bar_is_not_redrawn_for_every_step() -> None:
    out = FakeTerminal()
    terminal = Terminal(out)
    for step in range(1, 1000):
        terminal.step("epoch 1/2", step, 1001)
    assert out.getvalue().count("\r") < 20
