#!/usr/bin/env python3
"""
The launcher: makes the environment on first use, then runs the bundle's workflows, printing each line that it runs.

    python launch.py demo       reconstruct a real chest CT from two projected X-rays, and train a small cascade on it
    python launch.py test       run the tests
    python launch.py fetch      fetch public CTs to train on, or radiographs and CTs of the same patients
    python launch.py datalist   pair and split the studies of a folder, or check the datalist of one
    python launch.py register   register the training CTs to each other, for an augmentation of the training
    python launch.py preprocess make the cubes that CTs are read as, once, so that trainings load them fast
    python launch.py train      train one stage or all three
    python launch.py atlas      put CTs of the training section next to weights that read other patients' bodies
    python launch.py infer      reconstruct a CT from a frontal and a lateral X-ray: one pair, or those of a folder
    python launch.py assess     reconstruct likewise, and say without a CT how far to trust it: one pair, or a folder
    python launch.py evaluate   score trained weights on the CTs of a folder, or on the test section of its datalist
    python launch.py package    pack the bundle for a model zoo
    python launch.py publish    say what of the bundle would go to the Hugging Face Hub, and upload it by your own token
    python launch.py label      serve a folder of studies by MONAI Label, from an environment of its own
    python launch.py node       reconstruct what a PACS or a modality sends by DICOM, and store the results there
    python launch.py page       a page on this machine to try it: two radiographs in, the report out
    python launch.py install    make what other verbs need, and run none of them

Research use only, not for diagnosis. Needs Python 3.10 or newer and nothing else.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which Python itself leaves out under PYTHONSAFEPATH

from launcher import environments, verbs  # noqa: E402
from launcher.arguments import check_arguments, parse_arguments  # noqa: E402
from launcher.failures import Ended, LaunchError  # noqa: E402
from launcher.from_bundle import errors  # noqa: E402


def main() -> int:
    """Does what the command line says; the exit status."""
    arguments = parse_arguments(__doc__)
    try:
        check_arguments(arguments)
        wanted = set(arguments.verbs)
        environments.install(for_development="test" in wanted)
        if wanted & {"node", "test"}:
            environments.install_node()
        if "page" in wanted:
            environments.install_page()
        if wanted & {"publish", "test"}:
            environments.install_publish()
        if wanted & {"label", "test"} and verbs.WITHOUT_LABEL not in arguments.pytest:
            environments.install_label()
        arguments.verb(arguments)
    except (LaunchError, OSError) as error:
        message = "\n".join(map(errors.shown, str(error).split("\n")))
        print(f"\nlaunch.py: error: {message}", file=sys.stderr)
        return 1
    except (Ended, KeyboardInterrupt) as ended:
        number = ended.number if isinstance(ended, Ended) else signal.SIGINT
        print(f"\nlaunch.py: ended by {signal.Signals(number).name}.", file=sys.stderr)
        return 128 + number
    return 0


if __name__ == "__main__":
    sys.exit(main())
