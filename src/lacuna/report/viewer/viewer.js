"use strict";
// Each .viewer names its section; its data lie beside it, compressed, as base64. NiiVue is unpacked
// when the first of them comes into sight, and each is filled then: fifty lesions cost nothing yet.
(() => {
  const viewers = {};
  const GREEN = new Uint8Array([0, 158, 115, 255]); // no colour of the map, nor of the lesion
  window.lacunaViewers = viewers;
  let library;

  const bytesOf = (element) => Uint8Array.from(atob(element.textContent.trim()), (c) => c.charCodeAt(0));
  const unpack = (bytes) =>
    new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();

  async function load() {
    const code = await unpack(bytesOf(document.getElementById("niivue")));
    const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    try { return await import(url); } finally { URL.revokeObjectURL(url); }
  }

  async function fill(box) {
    const { Niivue, NVImage, NVMesh } = await (library ??= load());
    const canvas = box.querySelector("canvas");
    const nv = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.34, 0.71, 0.91, 0.9], crosshairWidth: 0.5,
      show3Dcrosshair: true, loadingText: "", isNearestInterpolation: true, logLevel: "error",
      fontColor: [1, 1, 1, 1], dragAndDropEnabled: false,
      multiplanarShowRender: 1, multiplanarLayout: 2, heroImageFraction: 0.5, heroSliceType: 4,
      meshXRay: 0.4, meshThicknessOn2D: 1, tileMargin: 6,
      // Which side is seen is told by a cube; what a cut takes away leaves no plate behind.
      isOrientCube: true, clipPlaneColor: [0, 0, 0, 0],
    });
    // What is drawn must stay for the printer; NiiVue gets the context that there is already.
    canvas.getContext("webgl2", { alpha: true, antialias: true, preserveDrawingBuffer: true });
    keepOpaque(nv);
    await nv.attachToCanvas(canvas);
    const part = (kind) => box.querySelector(`script[data-kind="${kind}"]`);
    const styles = {
      background: { colormap: "gray", opacity: 1, cal_min: 0, cal_max: 340 },
      map: { colormap: "share", opacity: 0.9, cal_min: 0.003, cal_max: 1 },
      lesion: { colormap: "lesion", opacity: 0.7, cal_min: 127, cal_max: 255 },
    };
    nv.addColormap("lesion", { R: [0, 0, 0], G: [229, 229, 229], B: [255, 255, 255], A: [0, 200, 255], I: [0, 128, 255] });
    // As in the figures: inferno from its first quarter.
    nv.addColormap("share", {
      R: [87, 87, 126, 163, 198, 227, 246, 252, 246, 252],
      G: [16, 16, 37, 48, 61, 89, 130, 172, 215, 255],
      B: [110, 110, 104, 89, 74, 51, 18, 17, 70, 164],
      A: [0, 255, 255, 255, 255, 255, 255, 255, 255, 255],
      I: [0, 1, 32, 64, 96, 128, 159, 191, 223, 255],
    });
    const kinds = [];
    for (const [kind, style] of Object.entries(styles)) {
      if (!part(kind)) continue;
      const base64 = part(kind).textContent.trim();
      nv.addVolume(await NVImage.loadFromBase64({ base64, name: `${kind}.nii.gz`, ...style }));
      kinds.push(kind);
    }
    if (part("streamlines")) {
      const buffer = await unpack(bytesOf(part("streamlines")));
      const mesh = await NVMesh.readMesh(buffer, "cut.tck", nv.gl, 1, GREEN, true);
      nv.addMesh(mesh);
      nv.setMeshProperty(mesh.id, "fiberColor", "Fixed");
      nv.setMeshProperty(mesh.id, "rgba255", GREEN);
    }
    nv.setSliceType(3);
    // From the lesion's side: NiiVue looks from the left at 110 degrees, from the right at 250.
    const centre = box.dataset.centre.split(" ").map(Number);
    nv.setRenderAzimuthElevation(centre[0] < 0 ? 110 : 250, 15);
    nv.scene.crosshairPos = nv.mm2frac(centre);
    control(box, nv, kinds);
    nv.updateGLVolume();
    viewers[box.id] = nv;
    box.dataset.state = "ready";
  }

  // Where streamlines shine through, NiiVue leaves colours fuller than their alpha, which paper takes
  // for other colours.
  function keepOpaque(nv) {
    const draw = nv.drawScene;
    nv.drawScene = function (...given) {
      const drawn = draw.apply(this, given);
      const gl = this.gl;
      gl.colorMask(false, false, false, true);
      gl.clearColor(0, 0, 0, 1);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.colorMask(true, true, true, true);
      return drawn;
    };
  }

  // Takes away what lies between the viewer and the sagittal plane through the lesion's centre.
  function cutOpen(nv, box) {
    const centre = box.dataset.centre.split(" ").map(Number);
    const isLeft = centre[0] < 0;
    const across = nv.mm2frac(centre)[0] - 0.5;
    return [isLeft ? -across : across, isLeft ? 270 : 90, 0];
  }

  function control(box, nv, kinds) {
    const panel = document.querySelector(`.controls[data-for="${box.id}"]`);
    panel.addEventListener("input", (event) => {
      const { name, value, checked } = event.target;
      if (name === "view") {
        nv.setSliceType(Number(value));
      } else if (name === "clip") {
        nv.setClipPlane(checked ? cutOpen(nv, box) : [2, 0, 0]);
      } else if (name === "colours") {
        nv.setMeshProperty(nv.meshes[0].id, "fiberColor", value);
      } else if (name === "streamlines") {
        nv.setMeshProperty(nv.meshes[0].id, "visible", checked);
      } else {
        nv.setOpacity(kinds.indexOf(name), Number(value));
      }
    });
    panel.hidden = false;
  }

  const fail = (box, reason) => {
    box.dataset.state = "failed";
    box.querySelector("canvas").remove();
    box.querySelector("p").textContent = `The interactive view cannot be shown: ${reason}. All figures of this page show the same results.`;
    box.style.height = "6rem";
    box.querySelector("p").hidden = false;
  };

  const start = async (box) => {
    if (!document.createElement("canvas").getContext("webgl2")) return fail(box, "this browser offers no WebGL 2");
    if (!window.DecompressionStream) return fail(box, "this browser is too old to unpack it");
    box.querySelector("p").hidden = true;
    try { await fill(box); } catch (error) { fail(box, error.message ?? error); }
  };

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      start(entry.target);
    }
  }, { rootMargin: "300px" });
  for (const box of document.querySelectorAll(".viewer")) seen.observe(box);
})();
