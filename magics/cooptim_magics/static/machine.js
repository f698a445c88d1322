// The machine as it is used, alone: strip.js, put in front of this file, draws what MachineView (machine_view.py) sends.

function render({ model, el }) {
  const root = el.appendChild(document.createElement("div"));
  root.className = "cooptim-live cooptim-machine-live";
  const show = strip(root);
  const update = () => show(model.get("machine"));
  model.on("change:machine", update);
  update();
  return () => model.off("change:machine", update);
}

export default { render };
