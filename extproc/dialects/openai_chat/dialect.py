"""The dialect as translation uses it."""

from __future__ import annotations

from extproc.dialects.codec import Context, StreamReader, StreamWriter
from extproc.dialects.openai_chat import answers, reading, streams, writing


class OpenAiChat:
    """Implements ``CallerDialect`` and ``TargetDialect``."""

    content_type = "application/json"
    stream_content_type = "text/event-stream; charset=utf-8"

    read_request = staticmethod(reading.read_request)
    write_request = staticmethod(writing.write_request)
    read_answer = staticmethod(answers.read_answer)
    write_answer = staticmethod(answers.write_answer)
    read_error = staticmethod(answers.read_error)
    write_error = staticmethod(answers.write_error)

    def stream_reader(self, context: Context) -> StreamReader:
        """For one stream of a provider."""
        return streams.ChatStreamReader(context)

    def stream_writer(self, context: Context) -> StreamWriter:
        """For one stream to a caller."""
        return streams.ChatStreamWriter(context)
