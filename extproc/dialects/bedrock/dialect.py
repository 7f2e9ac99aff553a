"""The dialect as translation uses it."""

from __future__ import annotations

from extproc.dialects.bedrock import answers, streams, writing
from extproc.dialects.codec import Context, StreamReader


class Converse:
    """Implements ``TargetDialect``."""

    write_request = staticmethod(writing.write_request)
    read_answer = staticmethod(answers.read_answer)
    read_error = staticmethod(answers.read_error)

    def stream_reader(self, context: Context) -> StreamReader:
        """For one stream of a provider."""
        return streams.ConverseStreamReader(context)
