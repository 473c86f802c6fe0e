"""The training process: `python -m medgrpo.grpo JOB.json`. Its exit code tells the parent whether a retry can help."""

import logging
import os
import select
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path

from medgrpo.errors import MedgrpoError, TrackingError, TrainingStopped
from medgrpo.fingerprint import write_whole
from medgrpo.grpo.protocol import EXIT_FULL, EXIT_REFUSED, EXIT_STOPPED, REFUSAL, Job
from medgrpo.grpo.ranks import rank
from medgrpo.progress import quiet

HOPELESS = {
    "out of memory": "out of memory: lower grpo.prompts_per_step or raise grpo.gradient_accumulation_steps",
    "probability tensor contains": "the policy's weights became NaN or infinite: lower grpo.learning_rate",
}
"""torch's words for what a retry can't mend → what to do."""


def main() -> int:
    """Run the job whose file is the only argument; the code to exit with."""
    job = Job.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    die_with_parent()
    quiet()
    logging.captureWarnings(True)
    from medgrpo.grpo.checkpoints import is_full
    from medgrpo.grpo.job import run
    from medgrpo.grpo.stopping import leave_note

    try:
        run(job)
    except TrackingError:
        raise  # MLflow may be back when this is tried again
    except TrainingStopped as error:
        leave_note(Path(job.output), str(error))
        return EXIT_STOPPED
    except Exception as error:
        if is_full(error, Path(job.output)):
            with suppress(OSError):  # the log is on that disk
                traceback.print_exc()
            return EXIT_FULL
        return _explain(job, error)
    return 0


def _explain(job: Job, error: Exception) -> int:
    """Refuse what a retry can't mend; what it can is raised again."""
    if isinstance(error, MedgrpoError | MemoryError):
        return _refuse(job, str(error))
    reason = next((reason for words, reason in HOPELESS.items() if words in str(error).lower()), None)
    if reason is None or not isinstance(error, RuntimeError):
        raise error
    return _refuse(job, reason)


def _refuse(job: Job, reason: str) -> int:
    """Leave the reason where the parent reads it. Of several processes the first one's counts."""
    own = Path(job.output) / f".{rank()}-{REFUSAL}"
    write_whole(own, reason)
    with suppress(FileExistsError):
        own.with_name(REFUSAL).hardlink_to(own)
    own.unlink()
    return EXIT_REFUSED


def die_with_parent() -> None:
    """End this process when its parent is gone, or whoever holds the other end of its standard input, however it died.

    With one process both are medgrpo. With several the parent is accelerate's launcher, and all share medgrpo's pipe.
    """
    threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()


def _end_after(parent: int) -> None:
    watched = select.poll()
    watched.register(sys.stdin.fileno(), select.POLLIN)
    with suppress(AttributeError, OSError):  # where processes can't be watched, the pipe alone tells
        watched.register(os.pidfd_open(parent), select.POLLIN)
    while True:
        for descriptor, _ in watched.poll():
            # Raw: a lock on the buffered stdin would break our own exit.
            if descriptor != sys.stdin.fileno() or not os.read(descriptor, 4096):
                os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
