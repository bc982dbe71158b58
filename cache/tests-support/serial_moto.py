"""moto's S3 server, one request at a time.

By itself it looks whether an object exists, and then writes, in threads of their own: on a busy machine two
writers of the same new object are both told that they were first. Usage: serial_moto.py PORT
"""

import io
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.server import MotoRequestHandler
from werkzeug.serving import run_simple

app = DomainDispatcherApplication(create_backend_app)
turn = threading.Lock()


def one_at_a_time(environ, start_response):
    length = int(environ.get("CONTENT_LENGTH") or 0)
    environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
    with turn:
        return [b"".join(app(environ, start_response))]


MotoRequestHandler.log_request = lambda *_, **__: None
run_simple("127.0.0.1", int(sys.argv[1]), one_at_a_time, threaded=True, request_handler=MotoRequestHandler)
