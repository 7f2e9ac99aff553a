"""Amazon Bedrock's Converse and ConverseStream: a target's dialect only."""
