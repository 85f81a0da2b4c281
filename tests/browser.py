"""A real browser for tests of pages, driven through a pipe by the Chrome DevTools protocol, which needs no package."""

import json
import os
import pathlib
import select
import shutil
import subprocess
import time

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ["disable-background-networking", "disable-component-update", "disable-sync", "disable-quic", "no-first-run"]
KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), "ArrowRight": (39, "")}


class Browser:
    """One headless Chromium with one tab; every event is kept."""

    def __init__(self, profile: pathlib.Path):
        """Starts it; the browser reads its commands from descriptor 3 and answers on 4."""
        commands, self.write = os.pipe()
        self.read, answers = os.pipe()
        pipes = f"3<&{commands} 4>&{answers}"
        flags = " ".join(f"--{flag}" for flag in [*QUIET, "headless", "no-sandbox", "disable-gpu"])
        shell = f'exec "$0" {flags} --remote-debugging-pipe --user-data-dir="$1" about:blank {pipes}'
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", shell, str(CHROMIUM), str(profile)],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self.events, self.buffer, self.count, self.session = [], b"", 0, None
        tab = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def message(self):
        """The next message."""
        deadline = time.monotonic() + 15
        while b"\0" not in self.buffer:
            assert select.select([self.read], [], [], max(0, deadline - time.monotonic()))[0], "the browser is silent"
            received = os.read(self.read, 1 << 20)
            assert received, "the browser has gone"
            self.buffer += received
        text, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(text)

    def call(self, method, **parameters):
        """The result of a command."""
        self.count += 1
        command = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.write, json.dumps(command).encode() + b"\0")
        while (message := self.message()).get("id") != self.count:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, place, width=1280, scheme="light"):
        """Opens a file or an address and waits until it has loaded."""
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=media)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.call("Page.navigate", url=place if isinstance(place, str) else place.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.message())

    def press(self, key):
        """Presses and releases a key."""
        code, text = KEYS[key]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def click(self, selector):
        """Clicks into the middle of the first element of a selector."""
        middle = f"""(() => {{ const element = document.querySelector({json.dumps(selector)});
          element.scrollIntoView({{block: "center"}}); const box = element.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""
        self.click_at(*self.evaluate(middle))

    def click_at(self, x, y):
        """Clicks at a point of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def close(self):
        """Ends the browser."""
        self.call("Browser.close")
        self.process.wait(15)
        os.close(self.read)
        os.close(self.write)
