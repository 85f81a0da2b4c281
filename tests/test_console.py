"""What every command does with Ctrl-C."""

import contextlib
import os
import signal

import pytest

from tools import console


@pytest.mark.parametrize("swallowed", [False, True])
def test_ctrl_c_ends_a_command_even_if_a_library_swallows_its_exception(swallowed, capsys):
    reached = []

    def command():
        with console.stage("work", 2) as advance:
            with contextlib.suppress(KeyboardInterrupt) if swallowed else contextlib.nullcontext():
                os.kill(os.getpid(), signal.SIGINT)
            reached.append("after")
            advance(1)
            reached.append("never")

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        console.run(command, ["command"], places="--output_dir", interrupted="interrupted; go on")
    assert ended.value.code == 130
    assert reached == (["after"] if swallowed else [])
    assert "interrupted; go on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) == handler
