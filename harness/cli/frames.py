"""The command that compares pictures alone."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from waypoint_parity.harness.cli.outcome import STANDARD_OUTPUT, exit_code, tell


@dataclass(frozen=True, kw_only=True)
class FramesCommand:
    """Compare pictures alone: two folders of PNGs, or two video files.

    Without --bound and --floor the frames must be equal bit for bit. A missing frame and one of another size fail.

    Example: waypoint-parity frames vendor.mp4 port.mp4 --floor vendor-again.mp4 --out reports/out/frames
    """

    reference: tyro.conf.Positional[Path]
    """Pictures that are right: a folder of PNGs, or a video file (needs the extra `video`)."""
    candidate: tyro.conf.Positional[Path]
    """Pictures to judge."""
    bound: float | None = None
    """Largest mean difference of a frame that passes, in levels of 255. With it, --floor decides nothing."""
    floor: Path | None = None
    """Pictures of a second run of the reference. A frame passes up to the largest mean difference that the second run
    has reached by then, but no more than a picture of one colour has; the mean over all frames passes up to the second
    run's."""
    json: Path | None = None
    """Write the comparison here too, with every frame; - writes it to standard output, and nothing else."""
    junit: Path | None = None
    """Write it here as JUnit XML, a case for every frame."""
    out: Path | None = None
    """Folder for report.html, and the pictures that it shows."""

    def run(self) -> int:
        """Print the comparison, and write what is asked for."""
        from waypoint_parity.harness.cli.text.frames import frames_lines
        from waypoint_parity.harness.files import replacing
        from waypoint_parity.harness.judge.frames import compare_frames
        from waypoint_parity.harness.progress import counter

        with counter(unit="frame") as announce:
            comparison = compare_frames(
                self.reference, self.candidate, bound=self.bound, floor=self.floor, announce=announce
            )
        tell(frames_lines(comparison), comparison, self.json)
        if self.junit is not None:
            from waypoint_parity.reports.junit import frames_junit

            with replacing(self.junit) as partial:
                partial.write_text(frames_junit(comparison), "utf-8")
        if self.out is not None:
            from waypoint_parity.reports.frames import write_frames_report

            page = write_frames_report(comparison, self.reference, self.candidate, self.floor, self.out)
            if self.json != STANDARD_OUTPUT:
                print(f"report in {page}")
        return exit_code(comparison.verdict)
