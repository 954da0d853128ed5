"""Looking at what other threads do never harms them."""

from __future__ import annotations

import subprocess
import sys
import textwrap

# Functions of many sizes, so that a frame written to after its function has returned is not one of the same size.
LOOK_AT_BUSY_THREAD = textwrap.dedent(
    """
    import gc, random, sys, threading, time

    from nbloader._system.frames import frames_of_threads

    functions = []
    for size in range(40):
        names = [f"local_{number}" for number in range(size)]
        lines = [f"    {name} = [depth]" for name in names]
        last = f"    return 0 if depth <= 0 else choice(functions)(depth - 1) + len([{', '.join(names)}])"
        space = {"functions": functions, "choice": random.choice}
        exec("\\n".join(["def call(depth):", *lines, last]), space)
        functions.append(space["call"])

    def look():
        while not is_over:
            with frames_of_threads() as frames:
                looks.append({frame.f_code.co_name for stack in frames.values() for frame in stack})

    def let_others_run(phase, _info):
        if phase == "start" and threading.current_thread() is looker:
            time.sleep(0.0002)

    is_over, looks = False, []
    looker = threading.Thread(target=look)
    sys.setswitchinterval(1e-5)
    gc.callbacks.append(let_others_run)
    gc.set_threshold(30, 1000, 1000)
    looker.start()
    for _ in range(20_000):
        functions[0](random.randrange(80))
    is_over = True
    looker.join()
    assert gc.isenabled()
    assert sum("call" in names for names in looks) > 100, len(looks)
    print("unharmed")
    """
)


def test_a_thread_that_is_looked_at_while_garbage_is_collected_is_unharmed() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK_AT_BUSY_THREAD], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unharmed\n", "")


FORK_WHILE_LOOKING = textwrap.dedent(
    """
    import gc, os, threading

    from nbloader._system.frames import frames_of_threads

    def look():
        while not is_over:
            with frames_of_threads():
                pass

    is_over = False
    looker = threading.Thread(target=look)
    looker.start()
    children = []
    for _ in range(50):
        child = os.fork()
        if child == 0:
            with frames_of_threads():
                pass
            os._exit(0 if gc.isenabled() else 1)
        children.append(child)
    print({os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children})
    is_over = True
    """
)


def test_a_process_forked_during_a_look_collects_garbage_and_can_look() -> None:
    done = subprocess.run([sys.executable, "-c", FORK_WHILE_LOOKING], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("{0}\n", "")
