"""Adapters in folders that learn on, images, and real servers in a thread."""

import io
import threading
from contextlib import contextmanager

from learned import learn_task

from hf_lifelong.loading import load

TASKS = {
    "films": ("text-classification", ("bad", "good")),
    "news": ("text-classification", ("sport", "world", "money")),
    "answers": ("question-answering", ("start", "end")),
    "names": ("token-classification", ("O", "PER", "LOC")),
}
CONFIG = {"r": 2, "members": 2, "signature_rank": 4}


def save(folder, model, processor):
    model.save_pretrained(str(folder))
    processor.save_pretrained(str(folder))


def teach(folder, name, kind="text-classification", labels=("no", "yes"), seed=9, width=None):
    """A further task for an adapter in a folder."""
    model, processor = load(folder, trainable=True)
    learn_task(model, name, kind, labels, seed, width=width)
    save(folder, model, processor)


def png(width, height, form="PNG"):
    """The bytes of an image."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, form)
    return file.getvalue()


@contextmanager
def running(app, page=None):
    """The address of a real server for an application, and its page, in a thread."""
    from hf_lifelong.serving import listen, make_server

    with listen("127.0.0.1", 0) as listening:
        runner = make_server(app, page)
        thread = threading.Thread(target=runner.run, args=([listening],))
        thread.start()
        while not runner.started:
            threading.Event().wait(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            runner.should_exit = True
            thread.join()
