"""A Flask app served on loopback, on a port of its own, until ``end()``."""

import threading

from werkzeug.serving import make_server


class FlaskServer:
    def __init__(self, app):
        self.server = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def end(self):
        self.server.shutdown()
        self.thread.join()
