// Keeps the explorer's tables up with the reader's edits. The readings are in the page; nothing is fetched.
(function () {
  function numbered(data) {
    // Every prefix in the order in which its readings were written: by length, then token by token.
    var found = new Map(), level = [["", 0]];
    for (var t = 0; t < data.length; t++) {
      var next = [];
      level.forEach(function (one) {
        data.move[one[1]].forEach(function (after, token) {
          if (after >= 0) next.push([one[0] + token + ",", after]);
        });
      });
      level = next;
      level.forEach(function (one) { found.set(one[0], [found.size, one[1]]); });
    }
    return found;
  }

  function explore(root) {
    var data = JSON.parse(root.querySelector("script").textContent);
    var raw = Uint8Array.from(atob(data.readings), function (c) { return c.charCodeAt(0); });
    var places = numbered(data), string = root.dataset.string.split(",").map(Number);
    var buttons = Array.from(root.querySelectorAll(".tokens button")), tables = Array.from(root.querySelectorAll("table"));
    var said = root.querySelector(".said");

    function stateAfter(n) { return n ? places.get(string.slice(0, n).join(",") + ",")[1] : 0; }

    function advance(at) {
      // The next token that is allowed here; what follows is kept where it still fits, else replaced by the first that does.
      var row = data.move[stateAfter(at)], token = string[at];
      do { token = (token + 1) % row.length; } while (row[token] < 0);
      string[at] = token;
      for (var i = at + 1; i < string.length; i++) {
        var moves = data.move[stateAfter(i)];
        if (moves[string[i]] < 0) string[i] = moves.findIndex(function (after) { return after >= 0; });
      }
    }

    function draw() {
      buttons.forEach(function (button, i) {
        var sign = data.tokens[string[i]];
        button.textContent = sign;
        button.setAttribute("aria-label", "token " + (i + 1) + " of " + string.length + ": " + sign + "; press for the next one");
      });
      var kinds = tables.length, summary = [];
      tables.forEach(function (table, a) {
        var rows = Array.from(table.rows), from = -1;
        rows.forEach(function (row) {
          var truth = row.classList.contains("truth"), title = row.cells[0].textContent;
          var column = title === "answer" ? data.columns - 1 : Number(title.replace("site ", "")), all = true;
          for (var t = 1; t <= string.length; t++) {
            var cell = row.cells[t], place = places.get(string.slice(0, t).join(",") + ","), state = data.reads[place[1]];
            if (truth) { cell.textContent = data.classes[state][0]; cell.title = data.classes[state][1]; continue; }
            var byte = raw[(place[0] * kinds + a) * data.columns + column], chosen = Math.floor(byte / data.levels);
            var sure = (byte % data.levels + 0.5) / data.levels, right = chosen === state, mark = document.createElement("span");
            cell.className = right ? "right" : "wrong";
            cell.style.setProperty("--sure", sure.toFixed(2));
            cell.textContent = data.classes[chosen][0];
            mark.textContent = ", " + Math.round(100 * sure) + "% sure, " + (right ? "right" : "wrong");
            cell.append(mark);
            cell.title = data.classes[chosen][1] + ", " + Math.round(100 * sure) + "% sure, " + (right ? "right" : "wrong");
            all = all && right;
          }
          if (!truth && title !== "answer") row.dataset.all = all ? "yes" : "";
        });
        var sites = rows.filter(function (row) { return row.dataset.all !== undefined; }).reverse();
        for (var s = sites.length - 1; s >= 0 && sites[s].dataset.all; s--) from = s;
        var text = from < 0 ? "not read right everywhere at the last site" : "all right from site " + from + " on";
        table.querySelector(".count").textContent = text;
        summary.push(table.caption.firstChild.nextSibling.textContent.trim() + ": " + text);
      });
      return summary;
    }

    buttons.forEach(function (button) {
      button.addEventListener("click", function () {
        advance(Number(button.dataset.at));
        said.textContent = draw().join("; ") + ".";
      });
    });
    root.querySelector(".reset").addEventListener("click", function () {
      string = root.dataset.string.split(",").map(Number);
      said.textContent = draw().join("; ") + ".";
    });
    function tell(event) {
      var cell = event.target.closest("td");
      if (!cell || cell.parentNode.className === "truth") return;
      var name = cell.closest("table").caption.firstChild.nextSibling.textContent.trim();
      said.textContent = name + ", " + cell.parentNode.cells[0].textContent + ", after " + cell.cellIndex + ": " + cell.title + ".";
    }
    root.addEventListener("mouseover", tell);
    root.addEventListener("click", tell);
    draw();
  }

  document.querySelectorAll(".statedepth-explorer").forEach(explore);
})();
