"""The training process: `python -m medgrpo.grpo JOB.json`. Its exit code tells the parent whether a retry can help."""

import logging
import os
import sys
import threading
from pathlib import Path

from medgrpo.errors import MedgrpoError, TrackingError
from medgrpo.fingerprint import write_whole
from medgrpo.grpo.protocol import EXIT_REFUSED, REFUSAL, Job
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
    from medgrpo.grpo.job import run

    try:
        run(job)
    except TrackingError:
        raise  # MLflow may be back when this is tried again
    except (MedgrpoError, MemoryError) as error:
        return _refuse(job, str(error))
    except RuntimeError as error:
        reason = next((reason for words, reason in HOPELESS.items() if words in str(error).lower()), None)
        if reason is None:
            raise
        return _refuse(job, reason)
    return 0


def _refuse(job: Job, reason: str) -> int:
    """Leave the reason where the parent reads it."""
    write_whole(Path(job.output) / REFUSAL, reason)
    return EXIT_REFUSED


def die_with_parent() -> None:
    """End this process when the parent's end of our standard input closes, however the parent died."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):  # raw: a lock on the buffered stdin would break our own exit
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
