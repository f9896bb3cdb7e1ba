"use strict";
(async () => {
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  find("title").textContent = data.title;
  find("note").textContent = data.note;
  if (!document.createElement("canvas").getContext("webgl2")) {
    find("message").hidden = false;
    find("message").textContent =
      "This view needs WebGL2, which this browser or machine does not have. The review page shows the same case without it.";
    find("stage").hidden = find("controls").hidden = true;
    return;
  }
  const maps = { image: "gray", reference: "blue", predicted: "warm" };
  const view = new niivue.Niivue({
    backColor: [0.06, 0.07, 0.08, 1], isRadiologicalConvention: true, crosshairWidth: 0.3, crosshairColor: [1, 1, 1, 0.5],
    multiplanarLayout: 2, multiplanarShowRender: 1, logLevel: "error", // a grid of three planes and 3D
  });
  await view.attachToCanvas(find("view"));
  for (const { name, kind, base64 } of data.volumes) {
    const volume = await niivue.NVImage.loadFromBase64({ base64, name, colormap: maps[kind], opacity: kind === "image" ? 1 : 0.5 });
    volume.kind = kind;
    view.addVolume(volume);
  }
  const update = () => {
    view.volumes.forEach((volume, place) => {
      if (volume.kind === "image") return;
      view.setOpacity(place, find(volume.kind).checked ? Number(find("opacity").value) / 100 : 0);
    });
  };
  for (const id of ["reference", "predicted", "opacity"]) find(id).addEventListener("input", update);
  for (const id of ["reference", "predicted"]) if (!data.volumes.some(({ kind }) => kind === id)) find(id).disabled = true;
  find("layout").addEventListener("change", (event) => view.setSliceType(Number(event.target.value)));
  view.setSliceType(3);
  document.body.dataset.ready = "yes";
})();
