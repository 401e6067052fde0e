"""A schedule that assigns test files to processes."""

from xdist.scheduler import LoadFileScheduling


class FromBothEnds(LoadFileScheduling):
    """The first process takes the files from the front, all others from the back (see order.py)."""

    def __init__(self, config, log=None):
        config.option.loadscopereorder = False  # the order is ours
        super().__init__(config, log)

    def _assign_work_unit(self, node):
        if node.gateway.id != "gw0":
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)
