import pytest

from mmdet_edge import errors

TORCHRUN, MPI, SLURM = (
    ('RANK', 'LOCAL_RANK'),
    ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
    ('SLURM_PROCID', 'SLURM_LOCALID'),
)


@errors.one_line_errors
def fail():
    raise errors.UserError('message')


@pytest.mark.parametrize('launcher', [TORCHRUN, MPI, SLURM], ids=['torchrun', 'mpi', 'slurm'])
def test_one_process_of_each_node_prints(launcher, monkeypatch):
    monkeypatch.setattr(errors.time, 'sleep', lambda seconds: None)
    for name in TORCHRUN + MPI:
        monkeypatch.delenv(name, raising=False)
    # The tools always set LOCAL_RANK; a Slurm task may start the launcher, whose processes inherit its variables.
    for name in ('LOCAL_RANK', *SLURM):
        monkeypatch.setenv(name, '0')
    # Local rank 0 of a second node prints too: the file may be missing there only.
    for rank, local_rank, code in (('0', '0', 'error: message'), ('1', '1', 1), ('8', '0', 'error: message')):
        monkeypatch.setenv(launcher[0], rank)
        monkeypatch.setenv(launcher[1], local_rank)
        with pytest.raises(SystemExit) as ended:
            fail()
        assert ended.value.code == code
        assert errors.environment_ranks()[0] == rank


def test_other_errors_keep_their_traceback():
    @errors.one_line_errors
    def fail_inside():
        raise ValueError('a defect, not a mistake')

    with pytest.raises(ValueError, match='a defect'):
        fail_inside()
