// What is held, by keys, fingers and the mouse, told to the server 20 times a second and at every change. The server lets go
// of everything by itself when this falls silent: see heartbeat.py.
(() => {
  const BEAT_MS = 50;
  const SLOW_MS = 150;  // there and back: with two beats more, what is held would no longer count
  const LETTERS = "wasdrfqex";
  const NAMES = {
    ShiftLeft: "shift", ShiftRight: "shift", Space: "space", Enter: "enter", NumpadEnter: "enter", Escape: "esc",
  };
  const held = new Map();  // what holds it (a key's code, a pointer's id) -> the key's name
  let socket, drives = false, stamp = null;

  // --- the link

  function connect() {
    const address = new URL("drive", location.href);
    address.protocol = "ws:";
    socket = new WebSocket(address);
    socket.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (message.stamp !== undefined) {
        stamp = message.stamp;
        const link_ms = Math.round(performance.now() - message.sent_ms);
        write("link", `link ${Math.max(1, link_ms)} ms${link_ms > SLOW_MS ? ": too slow" : ""}`);
      }
      if (drives && !message.drives) cover("Another tab drives the arm", "It was asked for there.");
      const begins = message.drives && !drives;
      drives = message.drives;
      if (begins) {
        uncover();
        beat();  // of nothing: from now on keys count
      }
    };
    socket.onopen = () => { document.getElementById("take").disabled = false; };
    socket.onclose = () => {
      letGo();
      drives = false;
      stamp = null;
      cover("No link to armflow", "The arm stays. The session is over, or the connection is lost.");
      document.getElementById("take").disabled = true;
      setTimeout(connect, 500);
    };
  }

  function send(message) {
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({...message, sent_ms: performance.now()}));
  }

  function beat() {
    if (drives) send({stamp, held: [...new Set(held.values())]});
  }

  function take() {
    held.clear();
    send({take: true});
  }

  // --- what is held

  function hold(by, key) {
    if (!drives || held.get(by) === key) return;
    held.set(by, key);
    changed();
  }

  function letGoOf(by) {
    if (held.delete(by)) changed();
  }

  function letGo() {
    held.clear();
    changed();
  }

  function changed() {
    beat();
    const names = new Set(held.values());
    for (const button of document.querySelectorAll("[data-key]")) {
      button.toggleAttribute("data-held", names.has(button.dataset.key));
    }
  }

  function nameOf(event) {
    if (NAMES[event.code]) return NAMES[event.code];
    const letter = event.key.toLowerCase();
    return letter.length === 1 && LETTERS.includes(letter) ? letter : null;
  }

  addEventListener("keydown", (event) => {
    if (!drives) return;
    // A shortcut of the browser or the desktop, after which releases may go missing.
    if (event.ctrlKey || event.altKey || event.metaKey) return letGo();
    const name = nameOf(event);
    if (name === null) return;
    event.preventDefault();
    if (!event.repeat) hold(event.code, name);
  });

  addEventListener("keyup", (event) => {
    letGoOf(event.code);  // by its place: its letter may have changed since it went down
    // Of two shift keys, some systems tell one release only.
    if (!event.shiftKey) ["ShiftLeft", "ShiftRight"].forEach(letGoOf);
  });

  addEventListener("pointerdown", (event) => {
    const button = event.target.closest?.("[data-key]");
    if (!button || event.button !== 0) return;
    event.preventDefault();
    focus();
    // Else a finger would belong to the button however far it slides off.
    if (event.target.hasPointerCapture(event.pointerId)) event.target.releasePointerCapture(event.pointerId);
    hold(event.pointerId, button.dataset.key);
  });
  addEventListener("pointerup", (event) => letGoOf(event.pointerId));
  addEventListener("pointercancel", (event) => letGoOf(event.pointerId));
  addEventListener("pointerout", (event) => {
    if (!event.target.closest?.("[data-key]")?.contains(event.relatedTarget)) letGoOf(event.pointerId);
  });

  addEventListener("blur", letGo);
  addEventListener("pagehide", letGo);
  document.addEventListener("visibilitychange", letGo);
  document.addEventListener("freeze", letGo);
  addEventListener("contextmenu", (event) => event.preventDefault());
  addEventListener("dragstart", (event) => event.preventDefault());

  // --- what is shown

  function write(id, text) {
    const element = document.getElementById(id);
    if (element) element.textContent = text;
  }

  function cover(title, text) {
    document.getElementById("cover").hidden = false;
    write("cover-title", title);
    write("cover-text", text);
  }

  function uncover() {
    document.getElementById("cover").hidden = true;
    document.activeElement?.blur();  // else space and enter would press its button again
    focus();
  }

  document.body.insertAdjacentHTML("beforeend", `
    <div id="cover"><div>
      <h1 id="cover-title">armflow</h1>
      <p id="cover-text">Hold shift, or with one thumb the button on the left: the other keys and buttons count while it is held. Letting go stops the arm.</p>
      <button id="take" type="button" disabled>Drive from here</button>
      <p>This is no emergency stop: keep the real one in reach, and the arm in sight.</p>
    </div></div>`);
  document.getElementById("take").addEventListener("click", take);

  // One image of a camera at a time: a slow connection shows fewer, and beats do not wait behind them.
  setInterval(() => {
    for (const image of document.querySelectorAll("img[data-frame]")) {
      if (image.dataset.asked === image.dataset.frame || image.dataset.loading) continue;
      image.dataset.asked = image.dataset.frame;
      image.dataset.loading = "yes";
      image.onload = image.onerror = () => delete image.dataset.loading;
      image.src = image.dataset.frame;
    }
  }, 50);

  setInterval(beat, BEAT_MS);
  connect();
})();
