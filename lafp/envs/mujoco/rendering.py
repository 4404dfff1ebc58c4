"""Draws MuJoCo scenes off screen. One pass gives the colours and the mask of the background.

At 64 px MuJoCo spends most of its time on shadows, reflections and multisampling, so these are off
by default. ``docs/environments.md`` has the speeds.
"""

# Shape letters in this file: H height, W width.

import atexit
import ctypes
import functools
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from lafp.config import ConfigError

MAX_GEOMS = 2000
_WHITE_SEGID = 0xFFFFFE
_OPEN: "weakref.WeakSet[Renderer]" = weakref.WeakSet()
_OSMESA = ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")
_OPENGL = ("libOpenGL.so.0", "libGL.so.1")  # an EGL context needs one of these


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """Optional effects of drawing. It is fastest with all of them off."""

    shadows: bool = False
    reflections: bool = False
    multisampling: bool = False
    """Take four samples per pixel, which gives smooth edges."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One camera image."""

    pixels: np.ndarray
    """uint8 [H, W, 3]."""
    is_background: np.ndarray | None
    """bool [H, W]: the pixel shows sky and no geometry. None if ``draw`` was not to find it."""


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A sphere that is drawn but not simulated."""

    position: tuple[float, float, float]
    radius: float
    color: tuple[float, float, float, float]
    """Red, green, blue and opacity, in [0, 1]."""


def use_offscreen_gl() -> None:
    """Chooses the graphics library that MuJoCo draws with.

    It is the one in ``MUJOCO_GL`` if that is set, else EGL if EGL finds a device (a GPU or Mesa's
    software renderer), else OSMesa.

    Raises:
        ConfigError: Neither library is installed.
    """
    # Mesa would start two threads per core, but the pictures are too small to profit from them.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if os.environ.get("MUJOCO_GL"):
        return
    if _has_any(_OPENGL) and _egl_has_device():
        os.environ["MUJOCO_GL"] = "egl"
    elif _has_any(_OSMESA):
        os.environ["MUJOCO_GL"] = "osmesa"
    else:
        raise ConfigError(
            "MuJoCo cannot draw here: neither EGL with a device (libEGL.so.1) nor OSMesa "
            f"({_OSMESA[0]}) is installed. On Debian and Ubuntu: apt-get install libosmesa6"
        )


def _egl_has_device() -> bool:
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        return False
    of_devices = ctypes.CFUNCTYPE(
        ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
    )(address)
    num_devices = ctypes.c_int()
    return bool(of_devices(0, None, ctypes.byref(num_devices))) and num_devices.value > 0


def _has_any(names: tuple[str, ...]) -> bool:
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def _gl_context(width_px: int, height_px: int) -> Any:
    """Makes a context of the chosen library.

    For EGL and OSMesa it does not use ``mujoco.GLContext``, because MuJoCo chooses its library when
    it is imported, which may have happened before our choice.
    """
    module = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa"}.get(os.environ["MUJOCO_GL"], "mujoco")
    return import_module(module).GLContext(width_px, height_px)


@functools.cache
def _close_at_exit() -> None:
    """Closes all renderers at exit, before MuJoCo unloads the graphics library.

    Exit handlers run in reverse order, and MuJoCo's own is registered before this one.
    """
    atexit.register(_close_all)


def _close_all() -> None:
    for renderer in list(_OPEN):
        renderer.close()


class Renderer:
    """Draws any state of models that have the same meshes and textures.

    Args:
        model: The ``mujoco.MjModel`` whose meshes and textures are sent to the graphics library.
        height_px: Height of a picture.
        width_px: Width of a picture.
        cfg: Optional effects.
        hides_floor: Whether to leave out planes, so that the background replaces the ground.

    Raises:
        ConfigError: The graphics library is missing or does not work.
    """

    def __init__(
        self, model: Any, height_px: int, width_px: int, cfg: RenderConfig, hides_floor: bool
    ) -> None:
        import mujoco

        self._mujoco, self.cfg, self._hides_floor = mujoco, cfg, hides_floor
        # MuJoCo takes the sizes of its buffers from the model when it makes the context below.
        model.vis.global_.offheight, model.vis.global_.offwidth = height_px, width_px
        model.vis.quality.offsamples = 4 if cfg.multisampling else 0
        if not cfg.shadows:
            model.vis.quality.shadowsize = 0
        try:
            self._gl = _gl_context(width_px, height_px)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        except Exception as error:  # from ctypes, PyOpenGL or MuJoCo, depending on the library
            raise ConfigError(
                f"MuJoCo cannot draw with MUJOCO_GL={os.environ.get('MUJOCO_GL')}: {error}. Unset "
                "MUJOCO_GL, or install its library: libegl1 (egl), libosmesa6 (osmesa)."
            ) from None
        _close_at_exit()
        _OPEN.add(self)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=MAX_GEOMS)
        self._option, self._perturbation = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._area = mujoco.MjrRect(0, 0, width_px, height_px)
        self._pixels_HW3 = np.empty((height_px, width_px, 3), np.uint8)
        self._depth_HW = np.empty((height_px, width_px), np.float32)

    def draw(
        self,
        model: Any,
        data: Any,
        camera_id: int,
        *,
        has_sky: bool = True,
        finds_background: bool = False,
        markers: Sequence[Marker] = (),
    ) -> Picture:
        """Draws the scene from one of the model's cameras, posed as in ``data``.

        Args:
            model: A ``mujoco.MjModel``.
            data: A ``mujoco.MjData``.
            camera_id: Number of the camera in the model.
            has_sky: Whether to draw the sky. Without it the background is black, which is faster.
            finds_background: Whether to tell which pixels show no geometry. It is a pass of its own
                if the sky is drawn, because the sky has a depth that depends on the camera.
            markers: Spheres to draw in addition to the model.
        """
        self._set_scene(model, data, camera_id, markers)
        flags = self._mujoco.mjtRndFlag
        self._scene.flags[flags.mjRND_SHADOW] = self.cfg.shadows
        self._scene.flags[flags.mjRND_REFLECTION] = self.cfg.reflections
        is_background = None
        if finds_background:
            self._scene.flags[flags.mjRND_SKYBOX] = self._scene.flags[flags.mjRND_HAZE] = False
            self._render()
            # OpenGL returns the last row first. Depth is 1 where nothing was drawn.
            is_background = self._depth_HW[::-1] >= 1
        if has_sky or not finds_background:
            self._scene.flags[flags.mjRND_SKYBOX] = self._scene.flags[flags.mjRND_HAZE] = has_sky
            self._render()
        return Picture(pixels=self._pixels_HW3[::-1].copy(), is_background=is_background)

    def draw_mask(
        self,
        model: Any,
        data: Any,
        camera_id: int,
        is_shown_G: np.ndarray,
        markers: Sequence[Marker] = (),
    ) -> np.ndarray:
        """Draws where a picture of ``draw`` shows some of the geoms, bool [H, W].

        Args:
            model: A ``mujoco.MjModel``.
            data: A ``mujoco.MjData``.
            camera_id: Number of the camera in the model.
            is_shown_G: Which geoms of the model count, bool [G].
            markers: Spheres of the picture. They may hide geoms.
        """
        self._set_scene(model, data, camera_id, markers)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            is_geom = geom.objtype == self._mujoco.mjtObj.mjOBJ_GEOM and geom.objid >= 0
            # The colour is segid + 1. Samples of a pixel are averaged, so two geoms that meet in it
            # must not make the colour of a third: there is white, and a black that still hides.
            geom.segid = _WHITE_SEGID if is_geom and is_shown_G[geom.objid] else 0
        flags = self._mujoco.mjtRndFlag
        self._scene.flags[flags.mjRND_SEGMENT] = self._scene.flags[flags.mjRND_IDCOLOR] = True
        self._render()
        self._scene.flags[flags.mjRND_SEGMENT] = self._scene.flags[flags.mjRND_IDCOLOR] = False
        return self._pixels_HW3[::-1, :, 1] >= 128

    def _set_scene(self, model: Any, data: Any, camera_id: int, markers: Sequence[Marker]) -> None:
        mujoco = self._mujoco
        self._gl.make_current()
        self._camera.fixedcamid = camera_id
        mujoco.mjv_updateScene(
            model,
            data,
            self._option,
            self._perturbation,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        for marker in markers:
            self._add(marker)
        if self._hides_floor:
            self._hide_planes()

    def _render(self) -> None:
        mujoco = self._mujoco
        mujoco.mjr_render(self._area, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels_HW3, self._depth_HW, self._area, self._context)

    def close(self) -> None:
        """Frees the resources of the graphics library. Further calls do nothing."""
        if self in _OPEN:
            _OPEN.discard(self)
            self._gl.make_current()
            self._context.free()
            self._gl.free()

    def __del__(self) -> None:
        self.close()

    def _add(self, marker: Marker) -> None:
        geom = self._scene.geoms[self._scene.ngeom]
        self._mujoco.mjv_initGeom(
            geom,
            self._mujoco.mjtGeom.mjGEOM_SPHERE,
            np.full(3, marker.radius),
            np.array(marker.position, np.float64),
            np.eye(3).ravel(),
            np.array(marker.color, np.float32),
        )
        self._scene.ngeom += 1

    def _hide_planes(self) -> None:
        plane = self._mujoco.mjtGeom.mjGEOM_PLANE
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.type == plane:
                geom.rgba[3] = 0
