"""The words of the domain: small frozen values, arithmetic only. Imports nothing of ours."""
