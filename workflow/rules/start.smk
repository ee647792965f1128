# What is looked at before the first job, and put away after the last. No rules.
from rich.filesize import decimal

from maftp.data import inventory
from maftp.data.download import registration_message
from maftp.data.removal import remove_archives
from maftp.data.unpack import in_place
from maftp.machine import check_machine


def tell_what_needs_registration():
    """Say before anything starts which archives only the user can get; make all else first.

    The miniature world draws all of its archives.
    """
    for name in [] if PARAMS.data.world else SOURCES:
        entry = CATALOG.source(name)
        archives = layout.archives_dir(ROOT)
        there = (archives / entry.file).exists() or in_place(entry, ROOT)
        if entry.urls or there or inventory.is_needless(name, CATALOG, DATASETS, ROOT):
            continue
        without = [b for b in BENCHMARKS if name not in sources_of(b)]
        logger.warning(
            f"{registration_message(entry, archives, PARAM_FILES)}. All that does without it is "
            f"made first. To leave it out: benchmarks: [{', '.join(without)}]"
        )
        if workflow.execution_settings is not None:  # None in a dry run
            workflow.execution_settings.keep_going = True


def sources_of(benchmark):
    """Return the sources of the data that a benchmark scores."""
    return CATALOG.datasets[CATALOG.benchmarks[benchmark].dataset].sources


def stop_where_the_machine_lacks_something():
    """Compare this machine with the experiment's needs before the first job.

    Raises:
        WorkflowError: the experiment cannot be done here.
    """
    if not PARAMS.resources.check_machine:
        return
    findings = check_machine(
        PARAMS,
        CATALOG,
        Path(ROOT),
        sources=[] if PARAMS.data.world else [*SOURCES, *RELEASED],
        jobs_run_here=workflow.local_exec,
    )
    for finding in findings:
        logger.warning(finding.text)
    if any(finding.stops for finding in findings):
        raise WorkflowError(
            "this machine lacks what the experiment needs (above); "
            "`resources: {check_machine: false}` in a parameter file tries it all the same"
        )


def is_converted(dataset):
    """Tell whether a conversion was finished."""
    return layout.manifest_path(ROOT, dataset).exists()


def remove_spent_archives(datasets):
    """Remove what was downloaded for these data sets once all are converted, when told to."""
    if PARAMS.data.keep_archives:
        return
    removed = remove_archives(datasets, CATALOG, Path(ROOT))
    if removed:
        archives = "1 archive" if len(removed) == 1 else f"{len(removed)} archives"
        freed = decimal(sum(removed.values()))
        logger.info(f"removed {archives} after conversion: {freed} freed")


def own_the_records():
    """Give Snakemake copies of its records that DVC linked into place: it writes them over.

    Raises:
        WorkflowError: results are here, but nothing says how they were made.
    """
    found = [file for file in RECORDS.rglob("*") if file.is_file()]
    for file in found:
        if file.stat().st_nlink > 1 or not os.access(file, os.W_OK):
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)
    # Snakemake itself knows only after it has read the rules what it was asked for.
    touches = {"--touch", "-t"} & set(sys.argv)
    if found or touches or not Path(f"{RESULTS}/table.csv").exists():
        return
    raise WorkflowError(
        f"{RESULTS} is here without Snakemake's records of how it was made, so that no change of "
        "parameters would be noticed; fetch them with `dvc pull`, or take the results as made with "
        f"the present parameters: snakemake --touch --forceall {RESULTS}/table.csv"
    )


if workflow.exec_mode == ExecMode.DEFAULT:
    release_dead_lock()
    tell_what_needs_registration()
    own_the_records()
