(() => {
  const live = document.getElementById("live");
  const link = document.getElementById("link");
  if (!live || !window.EventSource) return;
  const say = (text, ok) => { link.textContent = text; link.classList.toggle("ok", ok); live.classList.toggle("old", !ok); };
  const replace = (html) => {
    // What is being selected, unfolded, focused or scrolled stays so.
    if (!document.getSelection().isCollapsed && live.contains(document.getSelection().anchorNode)) return;
    const open = [...live.querySelectorAll("details[open]")].map((e) => e.id);
    const scrolled = [...live.querySelectorAll(".wide")].map((e) => [e.id, e.scrollLeft]);
    const focused = live.contains(document.activeElement) && document.activeElement.closest("details");
    live.innerHTML = html;
    open.forEach((id) => { const e = document.getElementById(id); if (e) e.open = true; });
    scrolled.forEach(([id, left]) => { const e = document.getElementById(id); if (e) e.scrollLeft = left; });
    const again = focused && document.getElementById(focused.id);
    if (again) again.querySelector("summary").focus();
  };
  const source = new EventSource("/live" + location.search);
  source.onmessage = (event) => { replace(event.data); say("live", true); };
  source.onerror = () => say("this node does not answer: what you see is old", false);
})();
