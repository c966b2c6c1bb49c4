"""ZOOM: a box of a still at full resolution."""

from pixelis.tools.call import ToolFailure, ZoomArgs
from pixelis.tools.handle import Handle, Workspace
from pixelis.tools.tool import Made, Outcome


def still(workspace: Workspace, name: str) -> Handle:
    """The image or frame called `name`; raises policy wrong_modality for anything without pixels of its own."""
    handle = workspace.get(name)
    if handle.kind not in ("image", "frame"):
        raise ToolFailure("policy", "wrong_modality", f"{name} is a {handle.kind}, an image or a frame is needed")
    return handle


def clip(workspace: Workspace, name: str) -> Handle:
    """The clip called `name`; raises policy wrong_modality."""
    handle = workspace.get(name)
    if handle.kind != "clip":
        raise ToolFailure("policy", "wrong_modality", f"{name} is a {handle.kind}, a clip is needed")
    return handle


class Zoom:
    """Makes a child view of the source's own pixels: nothing is resampled, however deep the zoom."""

    id = "zoom-crop@1"

    def run(self, workspace: Workspace, args: ZoomArgs, until: float) -> Outcome:
        """One image handle, shown."""
        view = still(workspace, args.on).view.crop(args.box)
        return Outcome(made=(Made("image", view, shown=True),))
